//! The protobuf wire format: keys and values, without meaning.

use super::Malformed;

/// One value as it stands in a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wire<'a> {
    Integer(u64),
    Fixed(u64),
    Bytes(&'a [u8]),
}

/// Walks over the fields of a message. Stops at the first fault; never panics.
#[derive(Debug)]
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next field's number and value; `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<(u64, Wire<'a>)>, Malformed> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let value = match key & 7 {
            0 => Wire::Integer(self.varint()?),
            1 => Wire::Fixed(u64::from_le_bytes(self.array()?)),
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| Malformed::End)?;
                Wire::Bytes(self.take(length)?)
            }
            5 => Wire::Fixed(u64::from(u32::from_le_bytes(self.array()?))),
            other => {
                let wire = u8::try_from(other).unwrap_or_default();
                return Err(Malformed::Type {
                    field: format!("field {}", key >> 3),
                    wire,
                });
            }
        };
        Ok(Some((key >> 3, value)))
    }

    pub(super) fn varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let [byte] = self.array::<1>()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Malformed::End)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Malformed::End)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(Malformed::End)?;
        self.0 = rest;
        Ok(*taken)
    }
}

impl Wire<'_> {
    /// The number of its wire type.
    pub(super) fn kind(&self) -> u8 {
        match self {
            Self::Integer(_) => 0,
            Self::Fixed(_) => 1,
            Self::Bytes(_) => 2,
        }
    }
}
