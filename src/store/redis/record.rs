//! A lease as bytes at Redis: a header that scripts read, then the fields, without their names and without the id.
//!
//! | bytes | what |
//! |---|---|
//! | 0 | [`FORMAT`] |
//! | 1..5 | version, big-endian |
//! | 5 | state, in the order of [`LeaseState::ALL`]: the first three are live |
//! | 6 | 1 when the request key follows (16 bytes), else 0; only scripts write a 1 |
//! | then | the fields, as [`encode`] writes them; times are seconds after `issued_at` |
//!
//! Equal leases have equal bytes, so that a script can tell a repeated change from another one.

use crate::{
    model::{
        Timestamp,
        credential::CredentialKind,
        hex,
        lease::{Claim, Handle, Lease, LeaseId, LeaseState, LiveSecret, LiveSerial, Reach, ServerId},
        name::CaName,
        revocation::{AwsDeny, DenyBy},
        role::RegistryAction,
    },
    store::state_number,
};

/// The first byte of every record; another layout takes another number.
pub const FORMAT: u8 = 2;

const HEADER: usize = 7;
const REQUEST_KEY: usize = 16;

/// Bytes that are no record of [`FORMAT`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a record in the store is not readable: {0}")]
pub struct BadRecord(&'static str);

/// The lease as bytes, without a request key.
pub fn encode(lease: &Lease) -> Vec<u8> {
    let mut out = Encoder(Vec::with_capacity(256));
    out.0.push(FORMAT);
    out.0.extend(lease.version.to_be_bytes());
    out.0.push(state_number(lease.state));
    out.0.push(0);
    let issued = lease.issued_at.as_second();
    out.text(lease.role.as_str());
    out.text(lease.tenant.as_str());
    out.text(lease.subject.as_str());
    out.unsigned(match lease.kind {
        CredentialKind::X509 => 0,
        CredentialKind::Aws => 1,
        CredentialKind::Ecr => 2,
        CredentialKind::Registry => 3,
        CredentialKind::Jwt => 4,
    });
    out.signed(lease.issued_at.as_millisecond());
    out.signed(lease.expires_at.as_second() - issued);
    out.signed(lease.renew_until.as_second() - issued);
    out.unsigned(lease.generation.into());
    out.unsigned(match lease.reach {
        Reach::Crl => 0,
        Reach::Expiry => 1,
        Reach::Lease => 2,
        Reach::RoleSessions => 3,
    });
    out.signed(lease.live_until.as_second() - issued);
    match lease.revoked_at {
        None => out.unsigned(0),
        Some(at) => {
            out.unsigned(1);
            out.signed(at.as_millisecond());
        }
    }
    out.handle(&lease.handle, issued);
    out.rotation(lease);
    out.0
}

/// What the last part of a record holds, one bit each.
const RENEWED: u64 = 1;
const ACKNOWLEDGED: u64 = 2;
const CLAIMED: u64 = 4;
const ENROLLED: u64 = 8;
const NEXT_KEY: u64 = 16;
const HELD_UNTIL: u64 = 32;
const OTHER_CAS: u64 = 64;

/// The lease from a record, with or without a request key.
pub fn decode(id: LeaseId, record: &[u8]) -> Result<Lease, BadRecord> {
    let header = record.get(..HEADER).ok_or(BadRecord("it is too short"))?;
    if header[0] != FORMAT {
        return Err(BadRecord("its format is of another version of this service"));
    }
    let version = u32::from_be_bytes([header[1], header[2], header[3], header[4]]);
    let state = *LeaseState::ALL.get(usize::from(header[5])).ok_or(BadRecord("its state is unknown"))?;
    let start = HEADER + if header[6] == 1 { REQUEST_KEY } else { 0 };
    let mut input = Decoder(record.get(start..).ok_or(BadRecord("it is too short"))?);

    let role = input.text()?.try_into().map_err(|_| BadRecord("its role is no name"))?;
    let tenant = input.text()?.try_into().map_err(|_| BadRecord("its tenant is no name"))?;
    let subject = input.text()?.try_into().map_err(|_| BadRecord("its subject is no subject"))?;
    let kind = match input.unsigned()? {
        0 => CredentialKind::X509,
        1 => CredentialKind::Aws,
        2 => CredentialKind::Ecr,
        3 => CredentialKind::Registry,
        4 => CredentialKind::Jwt,
        _ => return Err(BadRecord("its kind is unknown")),
    };
    let issued_at = Timestamp::from_millisecond(input.signed()?).map_err(|_| BadRecord("a time is out of range"))?;
    let issued = issued_at.as_second();
    let expires_at = input.seconds(issued)?;
    let renew_until = input.seconds(issued)?;
    let generation = u32::try_from(input.unsigned()?).map_err(|_| BadRecord("its generation is out of range"))?;
    let reach = match input.unsigned()? {
        0 => Reach::Crl,
        1 => Reach::Expiry,
        2 => Reach::Lease,
        3 => Reach::RoleSessions,
        _ => return Err(BadRecord("its reach is unknown")),
    };
    let live_until = input.seconds(issued)?;
    let revoked_at = match input.unsigned()? {
        0 => None,
        _ => Some(Timestamp::from_millisecond(input.signed()?).map_err(|_| BadRecord("a time is out of range"))?),
    };
    let mut handle = input.handle(issued)?;
    let flags = input.unsigned()?;
    let millis = |at: i64| Timestamp::from_millisecond(at).map_err(|_| BadRecord("a time is out of range"));
    let renewed_at = if flags & RENEWED != 0 { Some(millis(input.signed()?)?) } else { None };
    let acknowledged = match flags & ACKNOWLEDGED {
        0 => 0,
        _ => u32::try_from(input.unsigned()?).map_err(|_| BadRecord("its acknowledged generation is out of range"))?,
    };
    let claim = match flags & CLAIMED {
        0 => None,
        _ => Some(Claim { by: ServerId(input.unsigned()?), until: millis(input.signed()?)? }),
    };
    if flags & NEXT_KEY != 0 {
        let key = input.hex()?;
        let Handle::X509 { next_key, .. } = &mut handle else { return Err(BadRecord("it has the next key of no certificate")) };
        *next_key = Some(key);
    }
    let held_until = if flags & HELD_UNTIL != 0 { Some(input.seconds(issued)?) } else { None };
    if flags & OTHER_CAS != 0 {
        let Handle::X509 { serials, .. } = &mut handle else { return Err(BadRecord("it has the CAs of no certificate")) };
        input.other_cas(serials)?;
    }
    if !input.0.is_empty() {
        return Err(BadRecord("bytes follow its end"));
    }
    Ok(Lease {
        id,
        version,
        role,
        kind,
        tenant,
        subject,
        state,
        issued_at,
        expires_at,
        renew_until,
        generation,
        reach,
        live_until,
        revoked_at,
        handle,
        renewed_at,
        acknowledged,
        claim,
        held_until,
        enrolled: flags & ENROLLED != 0,
    })
}

struct Encoder(Vec<u8>);

impl Encoder {
    /// LEB128.
    fn unsigned(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.0.push((value & 0x7f) as u8);
    }

    /// LEB128 over zigzag, so that small negative numbers are short too.
    fn signed(&mut self, value: i64) {
        self.unsigned(((value << 1) ^ (value >> 63)).cast_unsigned());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.unsigned(bytes.len() as u64);
        self.0.extend(bytes);
    }

    fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    /// Lower-case hex in half its length; any other text as it is. The lowest bit of the length tells which.
    fn hex(&mut self, text: &str) {
        match hex::decode(text) {
            Some(bytes) => {
                self.unsigned((bytes.len() as u64) << 1);
                self.0.extend(bytes);
            }
            None => {
                self.unsigned((text.len() as u64) << 1 | 1);
                self.0.extend(text.as_bytes());
            }
        }
    }

    fn rotation(&mut self, lease: &Lease) {
        let (next_key, serials) = match &lease.handle {
            Handle::X509 { next_key, serials, .. } => (next_key.as_deref(), serials.as_slice()),
            Handle::Aws { .. } | Handle::Registry { .. } | Handle::Jwt { .. } => (None, [].as_slice()),
        };
        let other_cas: Vec<(usize, &CaName)> =
            serials.iter().enumerate().filter_map(|(place, live)| Some((place, live.ca.as_ref()?))).collect();
        let bit = |set: bool, bit: u64| if set { bit } else { 0 };
        self.unsigned(
            bit(lease.renewed_at.is_some(), RENEWED)
                | bit(lease.acknowledged != 0, ACKNOWLEDGED)
                | bit(lease.claim.is_some(), CLAIMED)
                | bit(lease.enrolled, ENROLLED)
                | bit(next_key.is_some(), NEXT_KEY)
                | bit(lease.held_until.is_some(), HELD_UNTIL)
                | bit(!other_cas.is_empty(), OTHER_CAS),
        );
        if let Some(at) = lease.renewed_at {
            self.signed(at.as_millisecond());
        }
        if lease.acknowledged != 0 {
            self.unsigned(lease.acknowledged.into());
        }
        if let Some(Claim { by, until }) = lease.claim {
            self.unsigned(by.0);
            self.signed(until.as_millisecond());
        }
        if let Some(key) = next_key {
            self.hex(key);
        }
        if let Some(at) = lease.held_until {
            self.signed(at.as_second() - lease.issued_at.as_second());
        }
        if !other_cas.is_empty() {
            self.unsigned(other_cas.len() as u64);
            for (place, ca) in other_cas {
                self.unsigned(place as u64);
                self.text(ca.as_str());
            }
        }
    }

    fn handle(&mut self, handle: &Handle, issued: i64) {
        match handle {
            Handle::X509 { ca, serials, tbs, next_key: _ } => {
                self.unsigned(0);
                self.text(ca.as_str());
                self.unsigned(serials.len() as u64);
                for LiveSerial { serial, not_after, ca: _ } in serials {
                    self.hex(serial);
                    self.signed(not_after.as_second() - issued);
                }
                self.hex(tbs);
            }
            Handle::Aws { deny, role_arn, session, key_id } => {
                self.unsigned(1);
                match deny {
                    None => self.unsigned(0),
                    Some(AwsDeny { aws, by, role_arn }) => {
                        self.unsigned(1 + place(&DenyBy::ALL, by));
                        self.text(aws.as_str());
                        self.text(role_arn);
                    }
                }
                self.text(role_arn);
                self.text(session);
                // No key's id is empty.
                self.text(key_id.as_deref().unwrap_or_default());
            }
            Handle::Registry { registry, repositories, actions, secrets } => {
                self.unsigned(2);
                self.text(registry.as_str());
                self.unsigned(repositories.len() as u64);
                for repository in repositories {
                    self.text(repository);
                }
                self.unsigned(actions.len() as u64);
                for action in actions {
                    self.unsigned(place(&RegistryAction::ALL, action));
                }
                self.unsigned(secrets.len() as u64);
                for LiveSecret { sha256, not_after } in secrets {
                    self.hex(sha256);
                    self.signed(not_after.as_second() - issued);
                }
            }
            Handle::Jwt { jti, aud, claims } => {
                self.unsigned(3);
                self.text(jti);
                self.text(aud);
                self.hex(claims);
            }
        }
    }
}

/// Where an item stands in the list of all.
fn place<T: PartialEq>(all: &[T], item: &T) -> u64 {
    all.iter().position(|known| known == item).map_or(u64::MAX, |place| place as u64)
}

struct Decoder<'a>(&'a [u8]);

impl Decoder<'_> {
    fn unsigned(&mut self) -> Result<u64, BadRecord> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.0.split_first().ok_or(BadRecord("it is cut off"))?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(BadRecord("a number is too long"))
    }

    fn signed(&mut self) -> Result<i64, BadRecord> {
        let value = self.unsigned()?;
        Ok((value >> 1).cast_signed() ^ -(value & 1).cast_signed())
    }

    fn seconds(&mut self, issued: i64) -> Result<Timestamp, BadRecord> {
        let second = issued.checked_add(self.signed()?).ok_or(BadRecord("a time is out of range"))?;
        Timestamp::from_second(second).map_err(|_| BadRecord("a time is out of range"))
    }

    fn take(&mut self, length: u64) -> Result<&[u8], BadRecord> {
        let length = usize::try_from(length).map_err(|_| BadRecord("it is cut off"))?;
        let (head, rest) = self.0.split_at_checked(length).ok_or(BadRecord("it is cut off"))?;
        self.0 = rest;
        Ok(head)
    }

    fn text(&mut self) -> Result<String, BadRecord> {
        let length = self.unsigned()?;
        utf8(self.take(length)?)
    }

    fn hex(&mut self) -> Result<String, BadRecord> {
        let length = self.unsigned()?;
        let bytes = self.take(length >> 1)?;
        if length & 1 == 1 { utf8(bytes) } else { Ok(hex::encode(bytes)) }
    }

    fn handle(&mut self, issued: i64) -> Result<Handle, BadRecord> {
        match self.unsigned()? {
            0 => self.x509(issued),
            1 => self.aws(),
            2 => self.registry(issued),
            3 => Ok(Handle::Jwt { jti: self.text()?, aud: self.text()?, claims: self.hex()? }),
            _ => Err(BadRecord("its handle is of an unknown kind")),
        }
    }

    /// One of all, by its place.
    fn one_of<T: Copy>(&mut self, all: &[T], what: &'static str) -> Result<T, BadRecord> {
        let place = usize::try_from(self.unsigned()?).map_err(|_| BadRecord(what))?;
        all.get(place).copied().ok_or(BadRecord(what))
    }

    fn aws(&mut self) -> Result<Handle, BadRecord> {
        let deny = match self.unsigned()? {
            0 => None,
            place => {
                let by =
                    usize::try_from(place - 1).ok().and_then(|place| DenyBy::ALL.get(place)).ok_or(BadRecord("its denial is unknown"))?;
                let aws = self.text()?.try_into().map_err(|_| BadRecord("its way into AWS is no name"))?;
                Some(AwsDeny { aws, by: *by, role_arn: self.text()? })
            }
        };
        let (role_arn, session, key_id) = (self.text()?, self.text()?, self.text()?);
        Ok(Handle::Aws { deny, role_arn, session, key_id: (!key_id.is_empty()).then_some(key_id) })
    }

    fn registry(&mut self, issued: i64) -> Result<Handle, BadRecord> {
        let registry = self.text()?.try_into().map_err(|_| BadRecord("its registry is no name"))?;
        let mut repositories = Vec::new();
        for _ in 0..self.unsigned()? {
            repositories.push(self.text()?);
        }
        let mut actions = Vec::new();
        for _ in 0..self.unsigned()? {
            actions.push(self.one_of(&RegistryAction::ALL, "its action is unknown")?);
        }
        let mut secrets = Vec::new();
        for _ in 0..self.unsigned()? {
            secrets.push(LiveSecret { sha256: self.hex()?, not_after: self.seconds(issued)? });
        }
        Ok(Handle::Registry { registry, repositories, actions, secrets })
    }

    fn x509(&mut self, issued: i64) -> Result<Handle, BadRecord> {
        let ca = self.text()?.try_into().map_err(|_| BadRecord("its CA is no name"))?;
        let count = self.unsigned()?;
        let mut serials = Vec::new();
        for _ in 0..count {
            serials.push(LiveSerial { serial: self.hex()?, not_after: self.seconds(issued)?, ca: None });
        }
        Ok(Handle::X509 { ca, serials, tbs: self.hex()?, next_key: None })
    }

    /// The CAs of those certificates that another one issued than the newest.
    fn other_cas(&mut self, serials: &mut [LiveSerial]) -> Result<(), BadRecord> {
        for _ in 0..self.unsigned()? {
            let place = usize::try_from(self.unsigned()?).map_err(|_| BadRecord("it has the CA of no certificate"))?;
            let live = serials.get_mut(place).ok_or(BadRecord("it has the CA of no certificate"))?;
            live.ca = Some(self.text()?.try_into().map_err(|_| BadRecord("its CA is no name"))?);
        }
        Ok(())
    }
}

fn utf8(bytes: &[u8]) -> Result<String, BadRecord> {
    std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| BadRecord("a text is not UTF-8"))
}

#[cfg(test)]
mod tests;
