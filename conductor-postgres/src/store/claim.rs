/// The right to run an execution, until it is given back. The number alone is not enough: if a server lost the commit
/// of a claim, the next claim has the same number, under another orchestrator.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Claim {
    /// How often the execution was claimed, including this time.
    pub number: i32,
    /// The orchestrator that made the claim.
    pub orchestrator: i64,
}

/// Claims as the columns of a statement.
#[derive(Debug, Default)]
pub struct ClaimColumns {
    /// The numbers.
    pub numbers: Vec<i32>,
    /// The orchestrators, in the same order.
    pub orchestrators: Vec<i64>,
}

impl ClaimColumns {
    /// Adds a claim.
    pub fn push(&mut self, claim: Claim) {
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
