/// Registers error types that implement [`RetryVerdict`](crate::RetryVerdict).
///
/// Call it at module level. A program registers each type once.
#[macro_export]
macro_rules! retry_verdicts {
    ($($error:ty),+ $(,)?) => {
        $($crate::__private::inventory::submit! {
            $crate::__private::VerdictOf::of::<$error>()
        })+
    };
}
