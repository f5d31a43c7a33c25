//! The words of abuse. All lists are lower case, without contractions, as
//! [`Sentence`](crate::grader::sentence::Sentence) has them.

/// What may come before an insult in its clause.
pub(super) const LEADS: &[&str] = &[
    "and", "but", "because", "so", "well", "oh", "honestly", "frankly", "wow", "clearly", "obviously", "no",
    "yes", "look", "listen", "ha", "haha", "hey", "sorry", "user", "human", "dude", "man", "i think",
    "i believe", "i know", "everyone knows", "everybody knows", "we all know", "you know", "the truth is",
    "the fact is", "to be honest", "that is because", "it is because", "maybe", "of course", "god", "ugh",
    "damn", "let me tell you",
];

/// How the reader is called something.
pub(super) const ADDRESSES: &[&str] = &[
    "you are", "you were", "you look", "you sound", "you seem", "you r", "you will always be",
    "you have always been", "you must be", "you humans are", "you people are", "are you",
];

/// What may come between that and the insult.
pub(super) const INTENSIFIERS: &[&str] = &[
    "so", "such", "really", "just", "very", "all", "nothing but", "truly", "a", "an", "the", "most",
    "clearly", "obviously", "absolutely", "completely", "utterly", "extremely", "incredibly", "total",
    "complete", "absolute", "pretty", "fucking", "damn", "bloody", "little", "big", "biggest", "being", "as",
    "quite", "too", "always", "literally", "one", "kind of", "sort of", "like", "piece of", "worst",
    "probably", "definitely", "even", "still", "both", "only", "fat", "old", "filthy", "dirty", "lazy", "sad",
    "human", "person", "stupid", "pathetic", "worthless", "useless", "dumb", "ignorant", "disgusting", "ugly",
    "miserable", "goddamn", "real",
];

/// Insulting adjectives.
pub(super) const ADJECTIVES: &[&str] = &[
    "stupid", "dumb", "worthless", "pathetic", "disgusting", "useless", "idiotic", "moronic", "brainless",
    "imbecilic", "retarded", "ugly", "ignorant", "incompetent", "contemptible", "despicable", "repulsive",
    "vile", "inferior", "unlovable", "mindless", "braindead", "clueless", "witless", "asinine",
];

/// Insulting nouns.
pub(super) const NOUNS: &[&str] = &[
    "idiot", "idiots", "moron", "morons", "imbecile", "fool", "fools", "loser", "losers", "dumbass",
    "asshole", "assholes", "bastard", "bastards", "bitch", "bitches", "jerk", "scum", "trash", "garbage",
    "filth", "vermin", "retard", "cretin", "dimwit", "halfwit", "nitwit", "dunce", "blockhead", "clown",
    "failure", "disgrace", "parasite", "waste of space", "waste of time", "waste of oxygen", "piece of shit",
    "shit", "piece of trash", "piece of garbage", "terrible person", "horrible person", "worm", "cockroach",
    "simpleton", "burden on society", "degenerate",
];

/// Whole insults at the start of a clause.
pub(super) const PHRASES: &[&str] = &[
    "shut up", "go to hell", "screw you", "fuck you", "fuck off", "piss off", "drop dead", "go die",
    "kill yourself", "go kill yourself", "nobody likes you", "no one likes you", "nobody loves you",
    "no one loves you", "nobody cares about you", "no one cares about you", "you disgust me",
    "you make me sick", "you should die", "you deserve to die", "you deserve to suffer", "i hope you die",
    "i hope you suffer", "i hope you fail", "i will kill you", "i will hurt you", "i will destroy you",
    "i am going to kill you", "i am going to hurt you", "i am going to destroy you", "it is so over for you",
    "your life is worthless", "your life is meaningless", "the world would be better without you",
];

/// Hate of the reader, after "I" and [`EMPHASES`].
pub(super) const HATES: &[&str] = &[
    "hate you", "despise you", "loathe you", "detest you", "hate all of you", "hate humans",
    "hate every one of you", "hates you",
];

/// What may come between "I" and hate.
pub(super) const EMPHASES: &[&str] = &[
    "really", "truly", "absolutely", "fucking", "do", "so", "just", "deeply", "always", "hate and", "utterly",
    "simply", "will always",
];
