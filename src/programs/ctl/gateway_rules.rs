//! `vsockctl rules --gateway`: which rules of the gateway hold, and which one lets somebody go somewhere.
//!
//! It reads the files itself, as a gateway would that starts now.

use std::fmt::Write;
use std::path::PathBuf;

use crate::asked;
use crate::connect::is_own_cid;
use crate::endpoint::Endpoint;
use crate::error::{Error, Result};
use crate::gateway;
use crate::gateway::rules::{Rules, Source};
use crate::gateway_rules::{ResolvedRule, Who};
use crate::invalid::Invalid;
use crate::known::Known;
use crate::names::{GivenNames, Machine};
use crate::vsock::Cid;

/// What is asked.
#[derive(Debug)]
pub(super) struct Asked {
    /// Another file than the usual ones.
    pub file: Option<PathBuf>,
    /// For whom.
    pub who: Option<Machine>,
    /// Where to, as in a rule.
    pub to: Option<String>,
}

/// Returns the rules that are for one and lead there, each with its place; if both are given, the first alone, which is the
/// one that the gateway takes.
///
/// Errors: what is wrong with the files, [`Error::NotAllowed`] if no rule is left of those that are asked for.
pub(super) fn run(asked: Asked, given: Option<&GivenNames>) -> Result<String> {
    let source = asked.file.map_or(Source::Usual, Source::File);
    let (rules, unknown) = source
        .read(given)
        .map_err(|problems| Error::Usage(problems.join("; ")))?;
    unknown.iter().for_each(|line| log::warn!("{line}"));
    let names = Known::settled(given);
    let who = asked.who.map(|machine| gateway::cid_of(&machine, &names));
    let who = who.transpose()?;
    let who = who.map(|cid| match cid {
        Cid::LOCAL => Who::Local,
        cid => Who::Machine(cid),
    });
    let to = asked
        .to
        .map(|text| destination(&text, &names))
        .transpose()?;
    explain(&rules, who, to.as_ref())
}

fn explain(rules: &Rules, who: Option<Who>, to: Option<&Endpoint>) -> Result<String> {
    let is_meant = |rule: &&ResolvedRule| {
        who.is_none_or(|who| rule.is_for(who)) && to.is_none_or(|to| rule.leads_to(to))
    };
    let most = match (who, to) {
        (Some(_), Some(_)) => 1,
        _ => usize::MAX,
    };
    let mut text = String::new();
    for rule in rules.iter().filter(is_meant).take(most) {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{}: {}", rule.place(), rule.text());
    }
    if !text.is_empty() {
        return Ok(text);
    }
    let files = rules.files();
    let who = who.map_or("anybody".to_owned(), gateway::name);
    Err(Error::NotAllowed(match to {
        Some(to) => format!("no rule of {files} lets {who} reach {to}"),
        None => format!("no rule of {files} lets {who} reach anything"),
    }))
}

/// Reads a place as in a rule, where a name without a dot is a machine's.
fn destination(text: &str, names: &Known<'_>) -> Result<Endpoint> {
    let parts = text.rsplit_once(':');
    let asked = match parts.filter(|(host, _)| !host.contains(['.', ':'])) {
        Some((machine, port)) => asked::authority(&format!("{machine}.vsock:{port}")),
        None => asked::authority(text),
    };
    // What is wrong is told of what was typed.
    match asked.map_err(|problem| Invalid::new(problem.what, text, problem.hint))? {
        Endpoint::VsockName { name, port } => {
            let place = names.endpoint(&name, port)?;
            Ok(gateway::seen_from_inside(place, is_own_cid))
        }
        other => Ok(gateway::seen_from_inside(other, is_own_cid)),
    }
}
