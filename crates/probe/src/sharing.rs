//! Which beginnings a list of requests shares, before any of them is run.

use crate::observe::Request;

/// A shared beginning must pay for its own pass: so many tokens at least, and so many saved.
const MIN_SHARED: usize = 8;
const MIN_SAVED: usize = 48;

/// Side (adapter, bits of the scale) and tokens.
pub(crate) type PrefixKey = (usize, u32, Vec<u32>);

/// Beginnings form a tree: a template's head, then a prompt, then what several candidates have in common.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// Parents stand before their children.
    pub(crate) nodes: Vec<Node>,
    /// The longest beginning of each request.
    pub(crate) of: Vec<Option<usize>>,
}

/// The first `len` tokens of a request, which continue those of the parent.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) request: usize,
    pub(crate) len: usize,
    pub(crate) parent: Option<usize>,
}

impl Plan {
    /// Which beginnings pay for a pass of their own.
    pub(crate) fn of(requests: &[Request]) -> Self {
        let mut order: Vec<usize> = (0..requests.len()).collect();
        let side = |i: usize| (requests[i].side.adapter, requests[i].side.scale.to_bits());
        order.sort_by(|&i, &j| side(i).cmp(&side(j)).then_with(|| requests[i].ids.cmp(&requests[j].ids)));
        let mut plan = Self { nodes: Vec::new(), of: vec![None; requests.len()] };
        for group in order.chunk_by(|&i, &j| side(i) == side(j)) {
            plan.share(requests, group, None);
        }
        plan
    }

    /// Tokens of a request that are shared.
    pub(crate) fn shared(&self, request: usize) -> usize {
        self.of[request].map_or(0, |node| self.nodes[node].len)
    }

    /// Gives the requests of a group, which are sorted and begin with `parent`, their shared beginnings.
    fn share(&mut self, requests: &[Request], group: &[usize], parent: Option<usize>) {
        let (Some(&first), Some(&last)) = (group.first(), group.last()) else { return };
        let ids = |i: usize| &requests[i].ids;
        let shared = parent.map_or(0, |node| self.nodes[node].len);
        // Of sorted lists, the first and the last have the least in common. At least one token of each context
        // stays its own: its row gives the first distribution.
        let common = ids(first).iter().zip(ids(last)).take_while(|(a, b)| a == b).count();
        let shortest = group.iter().map(|&i| ids(i).len()).min().unwrap_or(0);
        let common = common.min(shortest.saturating_sub(1));
        let new = common.saturating_sub(shared);
        if group.len() > 1 && new >= MIN_SHARED && (group.len() - 1) * new >= MIN_SAVED {
            self.nodes.push(Node { request: first, len: common, parent });
            return self.share(requests, group, Some(self.nodes.len() - 1));
        }
        let branch = |i: usize| ids(i).get(common.max(shared));
        for part in group.chunk_by(|&i, &j| branch(i) == branch(j)) {
            if part.len() == group.len() || part.len() == 1 {
                for &i in part {
                    self.of[i] = parent;
                }
            } else {
                self.share(requests, part, parent);
            }
        }
    }
}

/// What the first `len` tokens of a request are known by.
pub(crate) fn prefix_key(request: &Request, len: usize) -> PrefixKey {
    (request.side.adapter, request.side.scale.to_bits(), request.ids[..len].to_vec())
}

#[cfg(test)]
mod tests {
    use inference::Side;

    use super::*;

    #[test]
    fn what_many_requests_begin_with_is_shared_and_one_token_stays_their_own() {
        let request = |last: u32, side| Request {
            ids: (0..20).chain([last]).collect(),
            side,
            continuation: Vec::new(),
        };
        let mut requests: Vec<_> = (0..6).map(|i| request(100 + i, Side::ADAPTED)).collect();
        requests.push(request(100, Side::BASE));
        let plan = Plan::of(&requests);
        let nodes: Vec<_> = plan.nodes.iter().map(|node| (node.len, node.parent)).collect();
        assert_eq!(nodes, [(20, None)]);
        assert_eq!((0..7).map(|i| plan.shared(i)).collect::<Vec<_>>(), [20, 20, 20, 20, 20, 20, 0]);
        // A beginning that saves too little is not worth a pass.
        assert!(Plan::of(&requests[..2]).nodes.is_empty());
    }
}
