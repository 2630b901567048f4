//! GPT-2's alphabet: one printable character per byte, in which byte-level tokens are written.

/// Bytes that are printable Latin-1 stand for themselves; the other 68 take U+0100 onwards.
const fn stands_for_itself(byte: u8) -> bool {
    matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff)
}

const LAST: u32 = 0x143;

const fn byte_of_each_character() -> [Option<u8>; LAST as usize + 1] {
    let mut table = [None; LAST as usize + 1];
    let mut next = 0x100;
    let mut byte = 0;
    while byte < 256 {
        if stands_for_itself(byte as u8) {
            table[byte] = Some(byte as u8);
        } else {
            table[next] = Some(byte as u8);
            next += 1;
        }
        byte += 1;
    }
    table
}

static BYTE_OF: [Option<u8>; LAST as usize + 1] = byte_of_each_character();

/// The bytes a byte-level token stands for, or `None` where a character is not in the alphabet.
pub fn bytes_of(token: &str) -> Option<Vec<u8>> {
    token.chars().map(|c| BYTE_OF.get(c as usize).copied().flatten()).collect()
}

/// The character that stands for a byte.
pub fn character_of(byte: u8) -> char {
    let position = BYTE_OF.iter().position(|entry| *entry == Some(byte)).unwrap_or(0);
    char::from_u32(position as u32).unwrap_or('\0')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_its_own_character() {
        for byte in 0..=255u8 {
            assert_eq!(bytes_of(&character_of(byte).to_string()), Some(vec![byte]));
        }
    }

    #[test]
    fn well_known_characters() {
        assert_eq!(bytes_of("Ġhello"), Some(b" hello".to_vec()));
        assert_eq!(bytes_of("Ċ"), Some(b"\n".to_vec()));
        assert_eq!(bytes_of("ä½ł"), Some("你".as_bytes().to_vec()));
        assert_eq!(bytes_of("ø"), Some(vec![0xf8]));
        assert_eq!(bytes_of("a b"), None);
        assert_eq!(bytes_of("<｜"), None);
    }
}
