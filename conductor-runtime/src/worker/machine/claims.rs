/// The round trip under way that nothing else may overtake: the answers of two claims, or of two reports of slots,
/// could arrive in the wrong order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum UnderWay {
    Nothing,
    /// It reports slots.
    Slots,
    /// It claims this many, and may report slots.
    Claim(usize),
    /// It gives back what is not known here, claims this many, and may report slots.
    GivingBack(usize),
}

/// What is known of the claims in the database.
#[derive(Debug)]
pub(super) struct Claims {
    under_way: UnderWay,
    /// The orchestrator id under which a claim may have committed without an answer.
    suspect: Option<i64>,
    /// How often claims were given back because of that. Requests sent before are then void.
    fence: i32,
}

impl Claims {
    pub(super) fn new() -> Self {
        Self {
            under_way: UnderWay::Nothing,
            suspect: None,
            fence: 0,
        }
    }

    pub(super) fn fence(&self) -> i32 {
        self.fence
    }

    pub(super) fn suspect(&self) -> Option<i64> {
        self.suspect
    }

    /// A claim under this id may have committed without an answer.
    pub(super) fn suspected(&mut self, orchestrator: Option<i64>) {
        self.suspect = orchestrator.or(self.suspect);
    }

    /// The worker now has this id. What an older one held has been given back.
    pub(super) fn renewed(&mut self, orchestrator: i64) {
        if self.suspect != Some(orchestrator) {
            self.suspect = None;
        }
    }

    /// Returns whether nothing is under way that another claim would overtake.
    pub(super) fn is_free(&self) -> bool {
        self.under_way == UnderWay::Nothing
    }

    /// Returns whether an answer is awaited that may bring executions.
    pub(super) fn is_claiming(&self) -> bool {
        matches!(self.under_way, UnderWay::Claim(want) | UnderWay::GivingBack(want) if want > 0)
    }

    /// Returns whether a second round trip may be sent beside another one.
    pub(super) fn lets_others_pass(&self) -> bool {
        self.suspect.is_none() && !matches!(self.under_way, UnderWay::GivingBack(_))
    }

    /// Notes a round trip that gives back what is not known here.
    pub(super) fn giving_back(&mut self, want: usize) {
        self.suspect = None;
        self.fence += 1;
        self.under_way = UnderWay::GivingBack(want);
    }

    /// Notes a round trip that claims or reports slots.
    pub(super) fn sent(&mut self, want: usize, reports_slots: bool) {
        match want {
            0 if reports_slots => self.under_way = UnderWay::Slots,
            0 => {}
            _ => self.under_way = UnderWay::Claim(want),
        }
    }

    /// Notes the answer of a round trip that claimed this many and reported slots, or neither.
    pub(super) fn answered(&mut self, want: usize, reported_slots: bool) {
        let of_this = match self.under_way {
            UnderWay::Nothing => false,
            UnderWay::Slots => want == 0 && reported_slots,
            UnderWay::Claim(_) => want > 0,
            // No other is under way meanwhile.
            UnderWay::GivingBack(_) => true,
        };
        if of_this {
            self.under_way = UnderWay::Nothing;
        }
    }

    /// Notes that a round trip is over of which nothing is known.
    pub(super) fn lost(&mut self, orchestrator: Option<i64>) {
        self.under_way = UnderWay::Nothing;
        self.suspected(orchestrator);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_answer_of_the_claim_makes_room_for_the_next() {
        let mut claims = Claims::new();
        claims.sent(10, true);
        assert!(claims.is_claiming() && !claims.is_free());
        // Outcomes alone, beside the claim.
        claims.sent(0, false);
        claims.answered(0, false);
        assert!(claims.is_claiming());
        claims.answered(10, true);
        assert!(claims.is_free());
        claims.sent(0, true);
        assert!(!claims.is_claiming() && !claims.is_free());
        claims.answered(0, true);
        assert!(claims.is_free());
    }

    #[test]
    fn what_is_in_doubt_is_given_back_alone() {
        let mut claims = Claims::new();
        claims.suspected(Some(7));
        assert!(!claims.lets_others_pass());
        claims.giving_back(0);
        assert_eq!((claims.suspect(), claims.fence()), (None, 1));
        assert!(!claims.lets_others_pass());
        claims.answered(0, false);
        assert!(claims.lets_others_pass());
    }

    #[test]
    fn a_new_id_ends_the_doubt_of_the_old_one() {
        let mut claims = Claims::new();
        claims.suspected(Some(7));
        claims.renewed(7);
        assert_eq!(claims.suspect(), Some(7));
        claims.renewed(8);
        assert_eq!(claims.suspect(), None);
    }
}
