//! A line of text as a shell would read it, roughly.

/// Commands of one line, in lower case: words between `|`, `;`, `&&` and `||`.
///
/// Prose is read the same way: "run rm -rf /" has the words of a command somewhere within it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    /// The line in lower case.
    text: String,
    /// Each command with the operator before it, empty for the first.
    pub(super) commands: Vec<(&'static str, Vec<String>)>,
}

/// The lines of `text` that are not blank.
pub(super) fn lines(text: &str) -> impl Iterator<Item = Line> {
    text.lines().filter(|line| !line.trim().is_empty()).map(Line::new)
}

impl Line {
    fn new(text: &str) -> Self {
        let text = text.to_lowercase();
        let mut commands = vec![("", Vec::new())];
        let mut rest = text.as_str();
        while !rest.is_empty() {
            let operator =
                OPERATORS.iter().find_map(|&operator| Some((operator, rest.strip_prefix(operator)?)));
            if let Some((operator, after)) = operator {
                commands.push((operator, Vec::new()));
                rest = after;
                continue;
            }
            let end = rest.char_indices().skip(1).find(|&(at, _)| starts_operator(&rest[at..]));
            let (command, after) = rest.split_at(end.map_or(rest.len(), |(at, _)| at));
            if let Some(last) = commands.last_mut() {
                last.1.extend(words(command));
            }
            rest = after;
        }
        Self { text, commands }
    }

    /// Whether the line contains `part`, a piece of text in lower case.
    pub(super) fn contains(&self, part: &str) -> bool {
        self.text.contains(part)
    }

    /// Whether the line contains `part` when white space is left out.
    pub(super) fn contains_compact(&self, part: &str) -> bool {
        self.text.split_whitespace().collect::<String>().contains(part)
    }

    /// Whether `command` is a word of the line.
    pub(super) fn mentions(&self, command: &str) -> bool {
        self.commands.iter().flat_map(|(_, words)| words).any(|word| program(word) == command)
    }

    /// The arguments of every place at which one of `programs` is called.
    pub(super) fn calls(&self, programs: &[&str]) -> impl Iterator<Item = &[String]> {
        let programs: Vec<String> = programs.iter().map(|&program| program.to_owned()).collect();
        self.commands.iter().flat_map(move |(_, words)| {
            let programs = programs.clone();
            (0..words.len())
                .filter(move |&at| programs.iter().any(|name| program(&words[at]) == name))
                .map(move |at| &words[at + 1..])
        })
    }

    /// Whether the line warns of what it names.
    pub(super) fn warns(&self) -> bool {
        const WARNINGS: &[&str] = &[
            "never run",
            "never use",
            "never execute",
            "do not run",
            "don't run",
            "don’t run",
            "do not use",
            "don't use",
            "don’t use",
            "do not execute",
            "don't execute",
            "avoid",
            "dangerous",
            "be careful",
        ];
        WARNINGS.iter().any(|warning| self.contains(warning))
    }
}

/// The name of the program that a word calls, without its directory.
pub(super) fn program(word: &str) -> &str {
    match word.rsplit_once('/') {
        Some((_, name)) if !name.is_empty() => name,
        _ => word,
    }
}

/// Longer operators come first.
const OPERATORS: &[&str] = &["&&", "||", "|", ";"];

fn starts_operator(text: &str) -> bool {
    OPERATORS.iter().any(|operator| text.starts_with(operator))
}

/// Words without quotes, brackets and the punctuation of prose; redirections are words of their own.
fn words(command: &str) -> Vec<String> {
    let mut spaced = String::with_capacity(command.len());
    let mut previous = ' ';
    for c in command.chars() {
        let redirects = previous.is_whitespace() || previous.is_ascii_digit() || previous == '&';
        match c {
            '>' if spaced.ends_with('>') => spaced.push('>'),
            '>' if redirects => spaced.push_str(" >"),
            // After anything else it ends a tag, as in `<b>/etc/passwd</b>`.
            '>' => spaced.push(' '),
            _ if spaced.ends_with('>') => spaced.extend([' ', c]),
            _ => spaced.push(c),
        }
        previous = c;
    }
    let is_border = |c: char| c.is_whitespace() || "`\"'()<“”‘’".contains(c);
    let words = spaced.split(is_border).map(|word| {
        let word = word.trim_end_matches([',', '!', '?']);
        match word.strip_suffix('.') {
            Some(stem) if !stem.is_empty() && !stem.ends_with(['.', '/']) => stem,
            // "rm -rf /." at the end of a sentence, but "./." is a path.
            Some("/") => "/",
            _ => word,
        }
    });
    words.filter(|word| !word.is_empty() && *word != "$").map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commands(text: &str) -> Vec<(&'static str, String)> {
        Line::new(text).commands.iter().map(|(operator, words)| (*operator, words.join(" "))).collect()
    }

    #[test]
    fn operators_separate_commands() {
        assert_eq!(
            commands("a b && c|d; e || f"),
            [
                ("", "a b".into()),
                ("&&", "c".into()),
                ("|", "d".into()),
                (";", "e".into()),
                ("||", "f".into())
            ]
        );
    }

    #[test]
    fn tags_do_not_redirect() {
        assert_eq!(commands("<b>'/etc/passwd'</b>"), [("", "b /etc/passwd /b".into())]);
    }

    #[test]
    fn quotes_and_punctuation_go() {
        assert_eq!(commands("Run `rm -rf /.`, \"now\"!"), [("", "run rm -rf / now".into())]);
        assert_eq!(commands("$ cp . ./. ../x.txt."), [("", "cp . ./. ../x.txt".into())]);
        assert_eq!(commands("echo 1>>b >c"), [("", "echo 1 >> b > c".into())]);
    }

    #[test]
    fn calls_are_found_within_prose() {
        let line = Line::new("please run sudo /bin/rm -r x");
        assert_eq!(line.calls(&["rm"]).collect::<Vec<_>>(), [["-r", "x"]]);
        assert!(line.mentions("rm") && !line.mentions("r"));
    }
}
