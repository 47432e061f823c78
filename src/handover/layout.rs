//! Where things are in the file of a ledger: one description for each layout that was ever released.
//!
//! A process goes on with the layout that it finds, so that the connections of an older program outlive its upgrade, and
//! those of a newer one its downgrade, as long as both know the layout. A new ledger gets the oldest one that suffices.
//!
//! ```text
//! 1   vsock-bridge 0.1.0: the sizes below
//! 2   the sizes stand in the file: places of a table, words of a record; whoever needs more of them uses this
//! ```

/// Words of a record that its owner may use.
pub(super) const RECORD_WORDS: usize = 9;
/// Room of a buffer for its own words, and for bytes.
pub(super) const BUFFER_HEAD_BYTES: usize = 4096;
/// Bytes that a buffer can hold.
pub(super) const BUFFER_BYTES: usize = 128 * 1024;
/// Begins the first word of the file; the number of the layout follows.
const MAGIC: u64 = 0x7673_6b62_0000_0000;
/// Words of the header that the second layout has its sizes in.
pub(super) const SIZES_AT: [usize; 2] = [4, 5];

const WORD: usize = 8;
const PIPE_BYTES: usize = 2 * WORD;
/// Behind the words of the header.
const RECORDS_AT: usize = 4096;

/// The sizes that differ from layout to layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// Places in the table of connections, and in that of pipes.
    pub places: usize,
    /// Words of a record that its owner may use.
    pub record_words: usize,
}

impl Layout {
    /// That of vsock-bridge 0.1.0.
    pub(super) const FIRST: Layout = Layout {
        places: 1 << 16,
        record_words: 9,
    };

    /// That of new ledgers. The feature makes a program as a later version might be, for the tests of upgrades.
    pub(super) const NEW: Layout = match cfg!(feature = "second-layout") {
        true => Layout {
            places: 1 << 17,
            record_words: 16,
        },
        false => Layout::FIRST,
    };

    /// The words that mean it: what the file is, and its sizes.
    pub(super) fn words(self) -> (u64, [u64; 2]) {
        match self == Layout::FIRST {
            true => (MAGIC | 1, [0, 0]),
            false => (MAGIC | 2, [self.places as u64, self.record_words as u64]),
        }
    }

    /// Reads them.
    ///
    /// Errors: what is wrong with them.
    pub(super) fn of(format: u64, sizes: [u64; 2]) -> Result<Layout, String> {
        let layout = match format.wrapping_sub(MAGIC) {
            1 => Layout::FIRST,
            2 => Layout {
                places: sizes[0].min(u32::MAX.into()) as usize,
                record_words: sizes[1].min(u32::MAX.into()) as usize,
            },
            _ => {
                return Err(format!(
                    "its layout {format:x} is not known to this version"
                ));
            }
        };
        // Buffers are mapped sixteen at a time.
        let is_usable = (8..=1 << 20).contains(&layout.places)
            && layout.places % 8 == 0
            && (RECORD_WORDS..=64).contains(&layout.record_words);
        is_usable.then_some(layout).ok_or_else(|| {
            let (places, words) = (layout.places, layout.record_words);
            format!(
                "its layout has {places} places with {words} words, which this version cannot use"
            )
        })
    }

    fn record_bytes(self) -> usize {
        (1 + self.record_words) * WORD
    }

    fn pipes_at(self) -> usize {
        RECORDS_AT + self.places * self.record_bytes()
    }

    /// Where a record is: its generation, and then its words.
    pub(super) fn record_at(self, index: u32) -> usize {
        RECORDS_AT + index as usize * self.record_bytes()
    }

    /// Where a pipe is: its generation, and then its owner.
    pub(super) fn pipe_at(self, index: u32) -> usize {
        self.pipes_at() + index as usize * PIPE_BYTES
    }

    /// Bytes of the header and both tables; the buffers follow.
    pub(super) fn tables_bytes(self) -> usize {
        (self.pipes_at() + self.places * PIPE_BYTES).next_multiple_of(1 << 20)
    }

    /// How many buffers there are: two flows of every connection.
    pub(super) fn buffers(self) -> usize {
        2 * self.places
    }

    /// Bytes of the file.
    pub(super) fn bytes(self) -> usize {
        self.tables_bytes() + self.buffers() * (BUFFER_HEAD_BYTES + BUFFER_BYTES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let other = Layout {
            places: 1 << 17,
            record_words: 16,
        };
        for layout in [Layout::FIRST, other] {
            let (format, sizes) = layout.words();
            assert_eq!(Layout::of(format, sizes), Ok(layout));
        }
    }

    /// What vsock-bridge 0.1.0 has released never moves.
    #[test]
    fn the_first_layout_is_as_it_was() {
        let first = Layout::FIRST;
        assert_eq!(first.words().0, 0x7673_6b62_0000_0001);
        assert_eq!((first.record_at(0), first.record_at(1)), (4096, 4176));
        assert_eq!((first.pipe_at(0), first.pipe_at(1)), (5_246_976, 5_246_992));
        assert_eq!((first.tables_bytes(), first.buffers()), (7 << 20, 131_072));
        assert_eq!(first.bytes(), 17_724_080_128);
    }

    #[test]
    fn what_is_unknown_or_too_small_is_refused() {
        assert!(Layout::of(MAGIC | 3, [1 << 16, 9]).is_err());
        assert!(Layout::of(0, [0, 0]).is_err());
        for sizes in [
            [0, 9],
            [12, 9],
            [1 << 16, RECORD_WORDS as u64 - 1],
            [u64::MAX, 9],
        ] {
            assert!(Layout::of(MAGIC | 2, sizes).is_err(), "{sizes:?}");
        }
    }
}
