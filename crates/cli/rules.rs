//! `triggerfish rules`.

use report::audit::{Family, Rule};

use crate::args::{RulesArguments, RulesVerb};
use crate::exit::{self, Failure};
use crate::{Outcome, output};

pub(crate) fn run(arguments: &RulesArguments) -> Outcome {
    match &arguments.verb {
        RulesVerb::List => output::data(&list())?,
        RulesVerb::Explain { ids } => {
            let rules = probe::audit::rules();
            for id in ids {
                let rule = rules.iter().find(|rule| rule.id.eq_ignore_ascii_case(id)).ok_or_else(|| {
                    Failure::Input(format!("there is no rule `{id}`; `triggerfish rules list` has all"))
                })?;
                output::data(&explain(rule))?;
            }
        }
    }
    Ok(exit::PASS)
}

fn list() -> String {
    let rules = probe::audit::rules();
    let mut text = String::new();
    for family in Family::ALL {
        let of_family: Vec<_> = rules.iter().filter(|rule| rule.family() == family.prefix).collect();
        if of_family.is_empty() {
            continue;
        }
        text.push_str(&format!("{}: {}\n", family.prefix, family.about));
        for rule in of_family {
            text.push_str(&format!("  {:<9} {:<9} {}\n", rule.id, rule.severity.name(), rule.title));
        }
    }
    text
}

fn explain(rule: &Rule) -> String {
    let gap = if rule.gap {
        "\nA finding means that something was not checked: the audit is incomplete."
    } else {
        ""
    };
    format!(
        "{}: {}\nseverity {}, CWE-{}\n\n{}\n\nWhat to do: {}{gap}\n",
        rule.id,
        rule.title,
        rule.severity.name(),
        rule.cwe,
        rule.help,
        rule.remediation
    )
}
