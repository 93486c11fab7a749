/// Names error types that implement [`RetryVerdict`](crate::RetryVerdict), at the top of a module. In a program, each type
/// once.
#[macro_export]
macro_rules! retry_verdicts {
    ($($error:ty),+ $(,)?) => {
        $($crate::__private::inventory::submit! {
            $crate::__private::VerdictOf::of::<$error>()
        })+
    };
}
