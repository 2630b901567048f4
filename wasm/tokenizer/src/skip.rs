//! Passing over bytes that do not matter, a vector at a time.

/// Bytes of a vector.
const VECTOR: usize = 16;

/// Passes over vectors without a byte that matters: such a byte, or the end, is less than a vector
/// from where this ends. `matters` must be simple enough to become vector instructions.
#[inline(always)]
pub fn skip(text: &[u8], at: usize, matters: impl Fn(u8) -> bool) -> usize {
    let any = |vector: &[u8]| vector.iter().fold(false, |any, &byte| any | matters(byte));
    at + VECTOR * text[at..].chunks_exact(VECTOR).take_while(|vector| !any(vector)).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_in_the_vector_of_the_first_byte_that_matters() {
        for at in 0..40 {
            for length in at..80 {
                let mut text = vec![b'a'; length];
                let first = at + (length - at) / 2;
                text.get_mut(first).into_iter().for_each(|byte| *byte = b'<');
                let end = skip(&text, at, |byte| byte == b'<');
                assert!(end >= at && end <= first && first - end < VECTOR, "{at} {length} {end}");
            }
        }
    }
}
