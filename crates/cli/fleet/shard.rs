//! Which shard this process is to run: by argument, or by the number that a scheduler gives to a task of an array.

use crate::exit::Failure;
use crate::exit::scheduled::USAGE;

/// Variables that hold the number of a task, all counted from 0 as the examples under `deploy/` have it.
const VARIABLES: [(&str, &str); 4] = [
    ("SLURM_ARRAY_TASK_ID", "a Slurm array"),
    ("JOB_COMPLETION_INDEX", "a Kubernetes Indexed Job"),
    ("HQ_TASK_ID", "a HyperQueue array"),
    ("PBS_ARRAY_INDEX", "a PBS array"),
];

/// The shard that `given` names (`i` or `i/N`), else the environment. An argument wins: one task may run several shards.
pub(crate) fn index(
    given: Option<&str>,
    shards: usize,
    environment: impl Fn(&str) -> Option<String>,
) -> Result<usize, Failure> {
    let usage = |reason: String| Failure::Scheduled(USAGE, reason);
    let (text, origin) = match given {
        Some(text) => (text.to_owned(), "--shard".to_owned()),
        None => {
            let set: Vec<(&str, &str, String)> = VARIABLES
                .iter()
                .filter_map(|(name, of)| {
                    Some((*name, *of, environment(name).filter(|value| !value.is_empty())?))
                })
                .collect();
            let Some((name, of, value)) = set.first() else {
                let names = VARIABLES.map(|(name, _)| name).join(", ");
                return Err(usage(format!(
                    "no shard: give --shard I/{shards}, run as a task of an array ({names}), or use --jobs for all shards"
                )));
            };
            if let Some((other, of_other, differs)) = set.iter().find(|(_, _, other)| other != value) {
                return Err(usage(format!(
                    "two schedulers disagree on the shard: {name} is {value} ({of}), {other} is {differs} ({of_other}); give --shard"
                )));
            }
            (value.clone(), format!("{name} ({of})"))
        }
    };
    let (index, of) = match text.split_once('/') {
        Some((index, of)) => (index, Some(of)),
        None => (text.as_str(), None),
    };
    let number = |text: &str| text.parse::<usize>().ok();
    let (Some(index), true) = (number(index), of.is_none_or(|of| number(of).is_some())) else {
        return Err(usage(format!("{origin}: expected a shard such as 3 or 3/{shards}, found `{text}`")));
    };
    if let Some(of) = of.and_then(number).filter(|of| *of != shards) {
        return Err(usage(format!("{origin}: the plan has {shards} shards, found {of}")));
    }
    if index >= shards {
        return Err(usage(format!(
            "{origin}: the plan's shards are numbered 0 to {}, found {index}",
            shards.saturating_sub(1)
        )));
    }
    Ok(index)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(given: Option<&str>, variables: &[(&str, &str)]) -> Result<usize, String> {
        let environment = |name: &str| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        };
        index(given, 8, environment).map_err(|failure| {
            assert_eq!(failure.code(), USAGE);
            failure.to_string()
        })
    }

    #[test]
    fn every_scheduler_has_its_number() {
        for (name, _) in VARIABLES {
            assert_eq!(of(None, &[(name, "5")]), Ok(5), "{name}");
        }
        assert_eq!(of(Some("7/8"), &[]), Ok(7));
        assert_eq!(of(Some("0"), &[("HQ_TASK_ID", "3")]), Ok(0), "an argument wins");
        assert_eq!(of(None, &[("HQ_TASK_ID", "3"), ("SLURM_ARRAY_TASK_ID", "3")]), Ok(3));
    }

    #[test]
    fn what_names_no_shard_is_refused_by_its_origin() {
        for (given, variables, part) in [
            (None, &[][..], "no shard"),
            (None, &[("HQ_TASK_ID", "1"), ("SLURM_ARRAY_TASK_ID", "2")], "disagree"),
            (None, &[("PBS_ARRAY_INDEX", "x")], "PBS_ARRAY_INDEX"),
            (None, &[("SLURM_ARRAY_TASK_ID", "8")], "numbered 0 to 7"),
            (Some("3/9"), &[], "has 8 shards"),
            (Some("-1"), &[], "--shard"),
            (Some("1/"), &[], "--shard"),
        ] {
            let reason = of(given, variables).unwrap_err();
            assert!(reason.contains(part), "{reason}");
        }
    }
}
