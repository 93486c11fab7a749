use super::memo::Memo;
use crate::error::Error;
use crate::failure::Failure;
use crate::verdict::find;

/// An error that may contain a failure: that of a step, a transaction, a race or a child.
pub trait MayFail: sealed::Sealed {
    #[doc(hidden)]
    #[allow(private_interfaces)]
    fn failure_in(&self, memo: &Memo) -> Option<Failure>;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for anyhow::Error {}
    impl Sealed for crate::error::Error {}
}

impl MayFail for anyhow::Error {
    #[allow(private_interfaces)]
    fn failure_in(&self, memo: &Memo) -> Option<Failure> {
        find(self, &|cause| match cause.downcast_ref::<Error>() {
            Some(error) => error.failure_in(memo),
            None => cause.downcast_ref::<Failure>().cloned(),
        })
    }
}

impl MayFail for Error {
    #[allow(private_interfaces)]
    fn failure_in(&self, memo: &Memo) -> Option<Failure> {
        match self {
            Self::Failed { id, .. } => memo.child(*id),
            _ => None,
        }
    }
}
