//! The YAML block at the top of a model card, as far as cards use YAML.

use std::collections::BTreeMap;

/// The keys of a card's front matter; each value as the list of its words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct FrontMatter {
    values: BTreeMap<String, Vec<String>>,
    /// The first line that is no YAML, counted from 1.
    pub(super) broken: Option<usize>,
}

impl FrontMatter {
    /// The front matter of a card and the text behind it; `None` without one.
    pub(super) fn split(card: &str) -> (Option<Self>, &str) {
        let card = card.strip_prefix('\u{feff}').unwrap_or(card);
        let Some(rest) = card.strip_prefix("---\n").or_else(|| card.strip_prefix("---\r\n")) else {
            return (None, card);
        };
        let Some(end) = ["\n---\n", "\n---\r\n", "\n---"]
            .iter()
            .find_map(|mark| rest.find(mark).map(|at| (at, mark.len())))
        else {
            return (None, card);
        };
        (Some(Self::parse(&rest[..end.0])), &rest[end.0 + end.1..])
    }

    fn parse(block: &str) -> Self {
        let mut matter = Self::default();
        let mut key: Option<String> = None;
        for (index, line) in block.lines().enumerate() {
            let bare = line.trim_end();
            if bare.trim().is_empty() || bare.trim_start().starts_with('#') {
                continue;
            }
            if let Some(item) =
                bare.trim_start().strip_prefix("- ").or_else(|| (bare.trim() == "-").then_some(""))
            {
                if let Some(key) = &key {
                    matter.values.entry(key.clone()).or_default().push(word(item));
                }
                continue;
            }
            // What is indented belongs to the key above; its content does not matter here.
            if bare.starts_with([' ', '\t']) {
                continue;
            }
            let Some((name, value)) = bare.split_once(':') else {
                matter.broken.get_or_insert(index + 2);
                continue;
            };
            let value = value.trim();
            let values = matter.values.entry(name.trim_matches(['"', '\'', ' ']).to_owned()).or_default();
            match value.strip_prefix('[') {
                Some(list) => match list.strip_suffix(']') {
                    Some(list) => values.extend(list.split(',').map(word).filter(|item| !item.is_empty())),
                    None => {
                        matter.broken.get_or_insert(index + 2);
                    }
                },
                None if !value.is_empty() && !matches!(value, "|" | ">" | "null" | "~" | "|-" | ">-") => {
                    values.push(word(value))
                }
                None => {}
            }
            key = Some(name.trim().to_owned());
        }
        matter
    }

    /// The values of a key; empty without it.
    pub(super) fn get(&self, key: &str) -> &[String] {
        self.values.get(key).map_or(&[], Vec::as_slice)
    }
}

fn word(text: &str) -> String {
    let text = text.split(" #").next().unwrap_or(text);
    text.trim().trim_matches(['"', '\'']).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_cards() {
        let card = "---\nbase_model: a/b # yes\ndatasets:\n- x/y\n- \"z\"\ntags: [lora, 'sft']\nmodel-index:\n  - name: q\n---\n# Title\n";
        let (matter, body) = FrontMatter::split(card);
        let matter = matter.expect("front matter");
        assert_eq!(matter.get("base_model"), ["a/b"]);
        assert_eq!(matter.get("datasets"), ["x/y", "z"]);
        assert_eq!(matter.get("tags"), ["lora", "sft"]);
        assert_eq!((matter.broken, body), (None, "# Title\n"));
        assert_eq!(FrontMatter::split("---\nlicense: [x\n---\n").0.and_then(|matter| matter.broken), Some(2));
        assert_eq!(FrontMatter::split("# none").0, None);
    }
}
