//! Names that are made to be taken for others.

/// Whether one insertion, deletion, exchange or swap of neighbours leads from one name to the other.
pub(super) fn distance_is_one(left: &str, right: &str) -> bool {
    let (left, right): (Vec<char>, Vec<char>) = (left.chars().collect(), right.chars().collect());
    let (short, long) = if left.len() <= right.len() { (&left, &right) } else { (&right, &left) };
    if long.len() - short.len() > 1 || short == long {
        return false;
    }
    let start = short.iter().zip(long.iter()).take_while(|(a, b)| a == b).count();
    if short.len() < long.len() {
        return short[start..] == long[start + 1..];
    }
    let exchanged = short[start + 1..] == long[start + 1..];
    let swapped = start + 1 < short.len()
        && short[start] == long[start + 1]
        && short[start + 1] == long[start]
        && short[start + 2..] == long[start + 2..];
    exchanged || swapped
}

/// A name as a hasty reader sees it: lower case, without separators, look-alike letters as the letter they look like.
pub(super) fn skeleton(name: &str) -> String {
    let mut plain = String::new();
    for character in name.to_lowercase().chars() {
        let seen = match character {
            '-'
            | '_'
            | '.'
            | ' '
            | '\u{2010}'..='\u{2015}'
            | '\u{ff0d}'
            | '\u{ff3f}'
            | '\u{200b}'..='\u{200f}' => continue,
            '0' | 'о' | 'ο' | '\u{ff4f}' => 'o',
            '1' | '|' | 'і' | 'ι' | 'ı' | '\u{ff49}' | 'l' => 'i',
            '3' => 'e',
            '5' => 's',
            'а' | 'α' | '@' | 'ɑ' => 'a',
            'е' | 'є' | 'ε' => 'e',
            'с' | 'ϲ' => 'c',
            'р' | 'ρ' => 'p',
            'х' | 'χ' => 'x',
            'у' | 'γ' | 'ү' => 'y',
            'ѕ' => 's',
            'к' | 'κ' => 'k',
            'м' => 'm',
            'т' | 'τ' => 't',
            'н' | 'һ' => 'h',
            'в' | 'β' => 'b',
            'ԛ' => 'q',
            'ԝ' | 'ω' => 'w',
            'ԁ' => 'd',
            'ո' | 'η' | 'п' => 'n',
            'ν' | 'ѵ' => 'v',
            'ј' => 'j',
            'ɡ' => 'g',
            '\u{ff01}'..='\u{ff5e}' => char::from_u32(u32::from(character) - 0xfee0).unwrap_or(character),
            other => other,
        };
        plain.push(seen);
    }
    // Two letters that stand for one.
    plain.replace("rn", "m").replace("vv", "w").replace("cl", "d")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_step_apart() {
        for (left, right) in
            [("torch", "torhc"), ("requests", "request"), ("peft", "pefft"), ("numpy", "nunpy")]
        {
            assert!(distance_is_one(left, right), "{left} {right}");
            assert!(distance_is_one(right, left), "{left} {right}");
        }
        for (left, right) in [("torch", "torch"), ("torch", "trl"), ("abcd", "badc"), ("", "ab")] {
            assert!(!distance_is_one(left, right), "{left} {right}");
        }
    }

    #[test]
    fn look_alikes_have_one_skeleton() {
        for (left, right) in [
            ("metа-llama", "meta-llama"),
            ("m1stralai", "mistralai"),
            ("g00gle", "google"),
            ("Qvven", "qwen"),
        ] {
            assert_eq!(skeleton(left), skeleton(right), "{left}");
        }
    }
}
