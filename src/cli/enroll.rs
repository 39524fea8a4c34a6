//! `enroll`: codes for agents that have no certificate yet.

use std::io::Write;

use clap::{Args as ClapArgs, Subcommand};
use jiff::SignedDuration;
use serde::Serialize;

use super::{
    args::{TableFormat, TextFormat},
    exit::{Exit, Outcome},
    output,
    values::{enrollment_id, name, ttl},
};
use crate::{
    client::{
        Client,
        text::one_line,
        types::{CreatedEnrollment, Enrollment, EnrollmentOrder},
    },
    model::name::{AgentName, RoleName, TenantName},
};

/// `enroll`.
#[derive(Debug, Subcommand)]
pub enum Enroll {
    /// Make a single-use code; it is shown once
    #[command(after_help = "\
The code goes to standard output and is kept nowhere: send it to the agent's machine by a way that you trust.
What it is on record goes to standard error.

Examples:
  daypass enroll create --tenant acme --role agent > code
  daypass enroll create --tenant acme --role agent --name scanner-7 --ttl 30m -o json")]
    Create(Create),
    /// The codes that wait to be redeemed, without the codes themselves
    List {
        /// Only those of this tenant
        #[arg(long, value_parser = name::<TenantName>)]
        tenant: Option<String>,
        /// How to print them: table, or json (an array)
        #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT", hide_possible_values = true)]
        output: TableFormat,
    },
    /// Take a code back
    Delete {
        /// The enrolment's id, as `enroll list` shows it
        #[arg(value_parser = enrollment_id)]
        id: String,
    },
}

/// `enroll create`.
#[derive(Debug, ClapArgs)]
pub struct Create {
    /// The tenant that the agent will belong to
    #[arg(long, value_parser = name::<TenantName>)]
    pub tenant: String,
    /// The role whose certificate it gets
    #[arg(long, value_parser = name::<RoleName>)]
    pub role: String,
    /// The agent's name, for its certificate; the enrolment's id when absent
    #[arg(long, value_parser = name::<AgentName>)]
    pub name: Option<String>,
    /// How long the code can be redeemed: 10s to 1h [default: 10m]
    #[arg(long, value_name = "SPAN", value_parser = ttl)]
    pub ttl: Option<SignedDuration>,
    /// How to print it: text or json
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT", hide_possible_values = true)]
    pub output: TextFormat,
}

/// The JSON of a new code: a contract.
#[derive(Serialize)]
struct CreatedJson<'a> {
    enrollment: &'a Enrollment,
    code: &'a str,
}

impl Enroll {
    /// Whether its output, and so its error, is JSON.
    pub fn is_json(&self) -> bool {
        match self {
            Self::Create(Create { output, .. }) => *output == TextFormat::Json,
            Self::List { output, .. } => *output == TableFormat::Json,
            Self::Delete { .. } => false,
        }
    }
}

/// Runs one of them.
pub async fn run(client: &mut Client, command: Enroll, out: &mut dyn Write) -> Outcome {
    match command {
        Enroll::Create(args) => create(client, args, out).await,
        Enroll::List { tenant, output } => list(client, tenant.as_deref(), output, out).await,
        Enroll::Delete { id } => {
            client.delete_enrollment(&id).await?;
            writeln!(out, "{id}: taken back")?;
            Ok(Exit::Done)
        }
    }
}

async fn create(client: &mut Client, args: Create, out: &mut dyn Write) -> Outcome {
    let Create { tenant, role, name, ttl, output: format } = args;
    let CreatedEnrollment { enrollment, code } = client.create_enrollment(EnrollmentOrder { tenant, role, name, ttl }).await?;
    match format {
        TextFormat::Text => {
            writeln!(out, "{}", one_line(code.expose()))?;
            out.flush()?;
            let Enrollment { id, tenant, name, expires_at, .. } = &enrollment;
            output::note(&format!("enrolment {id}: {name} of {tenant}, to be redeemed once, until {expires_at}"), false);
        }
        TextFormat::Json => output::json(out, &CreatedJson { enrollment: &enrollment, code: code.expose() })?,
    }
    Ok(Exit::Done)
}

async fn list(client: &mut Client, tenant: Option<&str>, format: TableFormat, out: &mut dyn Write) -> Outcome {
    let found = client.enrollments(tenant).await?;
    match format {
        TableFormat::Json => output::json(out, &found)?,
        TableFormat::Table => {
            if !found.is_empty() {
                writeln!(out, "{:<36}  {:<20}  {:<20}  {:<20}  {:<36}  CREATED BY", "ID", "UNTIL", "TENANT", "ROLE", "NAME")?;
            }
            for Enrollment { id, tenant, role, name, created_by, expires_at, .. } in &found {
                let until = expires_at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
                let row = format!("{id:<36}  {until:<20}  {tenant:<20}  {role:<20}  {name:<36}  {created_by}");
                writeln!(out, "{}", one_line(&row))?;
            }
        }
    }
    Ok(Exit::Done)
}
