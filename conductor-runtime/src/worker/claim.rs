/// The right to run an execution, until it is given back. Its number alone is not enough: where a server lost the
/// commit of a claim, the next one has the same number, under another identity.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(crate) struct Claim {
    pub(crate) number: i32,
    /// The identity under which it was made.
    pub(crate) orchestrator: i64,
}

/// Claims as the arrays that travel.
#[derive(Debug, Default)]
pub(super) struct ClaimColumns {
    pub(super) numbers: Vec<i32>,
    pub(super) orchestrators: Vec<i64>,
}

impl ClaimColumns {
    pub(super) fn push(&mut self, claim: Claim) {
        self.numbers.push(claim.number);
        self.orchestrators.push(claim.orchestrator);
    }
}

impl FromIterator<Claim> for ClaimColumns {
    fn from_iter<I: IntoIterator<Item = Claim>>(claims: I) -> Self {
        let mut columns = Self::default();
        claims.into_iter().for_each(|claim| columns.push(claim));
        columns
    }
}
