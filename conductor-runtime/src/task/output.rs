use super::Task;
use crate::codec::encode_readable;
use crate::error::Error;
use crate::verdict::permanent;

/// Encodes an output. If it cannot be stored, a retry is of no use.
pub(super) fn encode_output<T: Task>(output: &T::Output) -> anyhow::Result<String> {
    match encode_readable(output) {
        Ok((json, _)) => Ok(json),
        Err(reason) => {
            let task = T::NAME.to_owned();
            let error = Error::Output { task, reason };
            Err(permanent(error.into()))
        }
    }
}
