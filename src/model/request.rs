//! What a caller asks for, after its form was checked.

use super::{SignedDuration, name::RoleName};

/// The longest CSR, in bytes of DER.
pub const MAX_CSR: usize = 16 * 1024;

/// The longest audience that may be asked for, in bytes.
pub const MAX_AUDIENCE: usize = 512;

/// A caller's own id for a request: 1 to 128 printable ASCII characters.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RequestId(String);

/// A request id that breaks the rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a request id is 1 to 128 printable ASCII characters")]
pub struct BadRequestId;

impl RequestId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for RequestId {
    type Error = BadRequestId;
    fn try_from(text: String) -> Result<Self, BadRequestId> {
        if text.is_empty() || text.len() > 128 || !text.bytes().all(|b| (0x21..=0x7e).contains(&b)) {
            return Err(BadRequestId);
        }
        Ok(Self(text))
    }
}

/// What the kind of the role needs from the caller.
pub enum Input {
    /// A PKCS #10 request, DER, at most [`MAX_CSR`] bytes.
    X509 {
        /// The bytes.
        csr_der: Vec<u8>,
    },
    /// The audience that a JWT is to be for.
    Jwt {
        /// One of the role's audiences.
        audience: String,
    },
    /// Nothing was sent.
    None,
}

impl Input {
    /// The bytes that tell one input from another.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::X509 { csr_der } => csr_der,
            Self::Jwt { audience } => audience.as_bytes(),
            Self::None => &[],
        }
    }
}

/// Asks for a credential.
pub struct IssueRequest {
    /// The role.
    pub role: RoleName,
    /// The wanted life; the role's default when absent.
    pub ttl: Option<SignedDuration>,
    /// The caller's own id.
    pub request_id: Option<RequestId>,
    /// What the kind of the role needs.
    pub input: Input,
}
