//! What is to be known of the connections, in memory that outlives the process.
//!
//! A file without a name, mapped by this process and passed on to the next one:
//!
//! ```text
//! header    what it is, and how much of each table was ever used
//! records   of the connections: generation, then words that only their owner understands
//! pipes     for each one its generation, and the flow whose bytes are in it
//! buffers     buffers, each with the flow whose bytes are in it (buffer.rs)
//! ```
//!
//! The process may be killed between any two instructions, so each change that must be seen whole is one write. A place in
//! a table is used again and again, and its generation tells one use from the next: whatever refers to an older one is dead.

use std::num::NonZeroU32;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::libc::MFD_NOEXEC_SEAL;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::fstat;
use nix::unistd::ftruncate;

use super::layout::{BUFFER_BYTES, BUFFER_HEAD_BYTES, Layout, RECORD_WORDS, SIZES_AT};
use crate::sys::Mapping;

/// Words of a pipe that its owner may use.
pub(super) const PIPE_WORDS: usize = 1;
/// Words of the header that are there for the user of the ledger. The first programs knew eight of them; the others are 0
/// in what they have left, since no layout has anything else in the rest of the header.
pub(super) const COMMON_WORDS: usize = 64;

const WORD: usize = 8;
/// In the first word of a place, beside its generation: in use.
const LIVE: u64 = 1;
const COMMON_AT: usize = 8 * WORD;
/// Words of the header, and room for more.
const HEADER_BYTES: usize = 4096;
const _: () = assert!(COMMON_AT + COMMON_WORDS * WORD <= HEADER_BYTES);
/// Buffers that are mapped at once: 2 MiB, so that a process with the most connections has a few hundred mappings, of the
/// 65 530 that it may have (vm.max_map_count).
const CHUNK_BUFFERS: usize = 16;
const BUFFER_STRIDE: usize = BUFFER_HEAD_BYTES + BUFFER_BYTES;
/// Free buffers that keep their memory; that of the others is given back. To fill one that has its memory took 14 µs, and
/// 176 µs where it was given back (a debug build, beside other load).
const WARM_BUFFERS: usize = 16;

/// Which table a place is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Table {
    /// Of the connections.
    Records,
    /// Of the pipes.
    Pipes,
}

/// One use of a place in a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Ticket {
    /// The place, and in the highest bit the table: half a ticket more would be felt in each connection.
    place: u32,
    generation: NonZeroU32,
}

const PIPES: u32 = 1 << 31;

impl Ticket {
    /// One use of the place with that number, of which a table has fewer than 2^31.
    pub(crate) fn new(table: Table, index: u32, generation: NonZeroU32) -> Ticket {
        let place = match table {
            Table::Records => index & !PIPES,
            Table::Pipes => index | PIPES,
        };
        Ticket { place, generation }
    }

    /// Returns the table that the place is in.
    pub(crate) fn table(self) -> Table {
        match self.place & PIPES {
            0 => Table::Records,
            _ => Table::Pipes,
        }
    }

    /// Returns the number of the place.
    pub(crate) fn index(self) -> u32 {
        self.place & !PIPES
    }

    /// Returns which of its uses it is.
    pub(crate) fn generation(self) -> NonZeroU32 {
        self.generation
    }
}

/// A flow of a connection, whose bytes a buffer or pipe holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Owner(u64);

impl Owner {
    /// Nobody that outlives the process.
    pub(crate) const NOBODY: Owner = Owner(0);

    /// The inbound or the outbound flow of a connection.
    pub(crate) fn flow(ticket: Ticket, is_inbound: bool) -> Owner {
        let flow = u64::from(ticket.index()) << 1 | u64::from(is_inbound);
        Owner(flow << 32 | u64::from(ticket.generation.get()))
    }

    /// Returns the use of a record that the flow's connection has; none for nobody.
    pub(crate) fn ticket(self) -> Option<Ticket> {
        let generation = NonZeroU32::new(self.0 as u32)?;
        Some(Ticket::new(
            Table::Records,
            (self.0 >> 33) as u32,
            generation,
        ))
    }

    /// The word that means it.
    pub(crate) fn word(self) -> u64 {
        self.0
    }

    /// Reads the word.
    pub(crate) fn of(word: u64) -> Owner {
        Owner(word)
    }
}

/// Where a buffer is.
#[derive(Debug)]
pub(crate) struct Location {
    /// Its number.
    pub index: u32,
    /// The memory that it is in.
    pub mapping: Arc<Mapping>,
    /// Where it begins there, in bytes.
    pub offset: usize,
}

/// The tables of one service.
#[derive(Debug)]
pub(crate) struct Ledger {
    file: Option<OwnedFd>,
    layout: Layout,
    tables: Mapping,
    chunks: Box<[OnceLock<Arc<Mapping>>]>,
    free: Mutex<Free>,
    is_frozen: AtomicBool,
}

/// Places that nobody uses, and how many of each table were ever used.
#[derive(Debug, Default)]
struct Free {
    records: Vec<u32>,
    pipes: Vec<u32>,
    buffers: Vec<u32>,
    used: [u32; 3],
}

impl Ledger {
    /// Begins an empty one, in a file that can be passed on.
    pub(crate) fn new() -> Result<Ledger, Errno> {
        Ledger::with(Layout::NEW)
    }

    fn with(layout: Layout) -> Result<Ledger, Errno> {
        let create = |flags| memfd_create(c"vsock-bridge-ledger", flags);
        // Some machines allow no other; kernels before 6.3 do not know the flag.
        let data_only = MFdFlags::MFD_CLOEXEC | MFdFlags::from_bits_retain(MFD_NOEXEC_SEAL);
        let file = match create(data_only) {
            Err(Errno::EINVAL) => create(MFdFlags::MFD_CLOEXEC),
            result => result,
        }?;
        ftruncate(&file, layout.bytes() as i64)?;
        let ledger = Ledger::map(Some(file), layout)?;
        let (format, sizes) = layout.words();
        for (at, size) in SIZES_AT.into_iter().zip(sizes) {
            let word = ledger.tables.word(at * WORD);
            word.store(size, Ordering::Release);
        }
        ledger.tables.word(0).store(format, Ordering::Release);
        Ok(ledger)
    }

    /// Begins one as another version of the program might.
    #[cfg(test)]
    pub(crate) fn of_another_layout() -> Ledger {
        let layout = Layout {
            places: 1 << 10,
            record_words: RECORD_WORDS + 7,
        };
        Ledger::with(layout).unwrap()
    }

    /// Begins an empty one that ends with this process.
    pub(crate) fn private() -> Result<Ledger, Errno> {
        Ledger::map(None, Layout::NEW)
    }

    /// Goes on with that of another process, in the layout that it has.
    ///
    /// Errors: what is wrong with it.
    pub(crate) fn adopt(file: OwnedFd) -> Result<Ledger, String> {
        let text = |errno: Errno| errno.desc().to_owned();
        let header = Mapping::new(Some(file.as_fd()), 0, HEADER_BYTES).map_err(text)?;
        let length = fstat(&file).map_err(text)?.st_size;
        if length < HEADER_BYTES as i64 {
            return Err(format!("it has {length} bytes"));
        }
        let word = |number: usize| header.word(number * WORD).load(Ordering::Acquire);
        let layout = Layout::of(word(0), SIZES_AT.map(word))?;
        // A word behind the end of the file would be the end of the process (SIGBUS).
        if length < layout.bytes() as i64 {
            return Err(format!("it has {length} bytes, not {}", layout.bytes()));
        }
        let ledger = Ledger::map(Some(file), layout).map_err(text)?;
        ledger.find_free();
        Ok(ledger)
    }

    fn find_free(&self) {
        let limits = [
            self.layout.places,
            self.layout.places,
            self.layout.buffers(),
        ];
        let mut free = self.free();
        for (table, (used, limit)) in free.used.iter_mut().zip(limits).enumerate() {
            let count = self.used_word(table).load(Ordering::Acquire);
            *used = count.min(limit as u64) as u32;
        }
        let [records, pipes, _] = free.used;
        let is_free = |table, index: &u32| {
            self.head(self.use_of(table, *index))
                .load(Ordering::Acquire)
                & LIVE
                == 0
        };
        free.records = (0..records)
            .filter(|index| is_free(Table::Records, index))
            .collect();
        free.pipes = (0..pipes)
            .filter(|index| is_free(Table::Pipes, index))
            .collect();
    }

    fn map(file: Option<OwnedFd>, layout: Layout) -> Result<Ledger, Errno> {
        let tables = Mapping::new(file.as_ref().map(AsFd::as_fd), 0, layout.tables_bytes())?;
        let chunks = layout.buffers().div_ceil(CHUNK_BUFFERS);
        Ok(Ledger {
            file,
            layout,
            tables,
            chunks: (0..chunks).map(|_| OnceLock::new()).collect(),
            free: Mutex::default(),
            is_frozen: AtomicBool::new(false),
        })
    }

    /// Makes it look like one of another program.
    #[cfg(test)]
    pub(crate) fn set_format(&self, format: u64) {
        self.tables.word(0).store(format, Ordering::Release);
    }

    /// Returns the file, which whoever maps it goes on with.
    pub(crate) fn file(&self) -> Option<BorrowedFd<'_>> {
        self.file.as_ref().map(AsFd::as_fd)
    }

    /// Leaves everything as it is from now on, for the next process.
    pub(crate) fn freeze(&self) {
        self.is_frozen.store(true, Ordering::Release);
    }

    /// Returns whether everything is to stay as it is.
    pub(crate) fn is_frozen(&self) -> bool {
        self.is_frozen.load(Ordering::Acquire)
    }

    /// Returns a word that belongs to no connection.
    pub(crate) fn common(&self, number: usize) -> &AtomicU64 {
        assert!(number < COMMON_WORDS);
        self.tables.word(COMMON_AT + number * WORD)
    }

    /// Takes a place into use; none when all are. Nobody sees it before [`Ledger::publish`].
    pub(crate) fn open(&self, table: Table) -> Option<Ticket> {
        let index = {
            let mut free = self.free();
            let (list, number) = match table {
                Table::Records => (&mut free.records, 0),
                Table::Pipes => (&mut free.pipes, 1),
            };
            match list.pop() {
                Some(index) => index,
                None => self.extend(&mut free, number, self.layout.places)?,
            }
        };
        Some(self.use_of(table, index))
    }

    /// Ends a use: what refers to it is dead from now on. Of one that is over nothing is changed.
    pub(crate) fn close(&self, ticket: Ticket) {
        if self.is_frozen() || !self.is_open(ticket) {
            return;
        }
        let next = u64::from(ticket.generation.get().wrapping_add(1)) << 32;
        self.head(ticket).store(next, Ordering::Release);
        let mut free = self.free();
        match ticket.table() {
            Table::Records => free.records.push(ticket.index()),
            Table::Pipes => free.pipes.push(ticket.index()),
        }
    }

    /// Returns whether a use is not over; it may be still to be published.
    pub(crate) fn is_open(&self, ticket: Ticket) -> bool {
        self.has(ticket) && self.use_of(ticket.table(), ticket.index()) == ticket
    }

    /// Makes a use valid, when all that belongs to it is written.
    pub(crate) fn publish(&self, ticket: Ticket) {
        let head = u64::from(ticket.generation.get()) << 32 | LIVE;
        self.head(ticket).store(head, Ordering::Release);
    }

    /// Returns whether a use is valid, and not over.
    pub(crate) fn is_live(&self, ticket: Ticket) -> bool {
        let head = u64::from(ticket.generation.get()) << 32 | LIVE;
        self.has(ticket) && self.head(ticket).load(Ordering::Acquire) == head
    }

    /// Returns all uses of a table that are valid.
    pub(crate) fn live(&self, table: Table) -> Vec<Ticket> {
        let number = match table {
            Table::Records => 0,
            Table::Pipes => 1,
        };
        let used = self.free().used[number];
        let uses = (0..used).map(|index| self.use_of(table, index));
        uses.filter(|ticket| self.is_live(*ticket)).collect()
    }

    /// Returns a word that belongs to a use; see [`RECORD_WORDS`] and [`PIPE_WORDS`].
    pub(crate) fn word(&self, ticket: Ticket, number: usize) -> &AtomicU64 {
        let words = match ticket.table() {
            Table::Records => RECORD_WORDS,
            Table::Pipes => PIPE_WORDS,
        };
        assert!(number < words);
        self.tables
            .word(self.place_of(ticket) + (1 + number) * WORD)
    }

    /// Returns the use of a place that is under way, or would be the next one.
    fn use_of(&self, table: Table, index: u32) -> Ticket {
        let place = Ticket::new(table, index, NonZeroU32::MIN);
        let generation = (self.head(place).load(Ordering::Acquire) >> 32) as u32;
        let generation = NonZeroU32::new(generation).unwrap_or(NonZeroU32::MIN);
        Ticket::new(table, index, generation)
    }

    fn has(&self, ticket: Ticket) -> bool {
        (ticket.index() as usize) < self.layout.places
    }

    /// Takes a buffer into use.
    ///
    /// Errors: there is no memory to map it.
    pub(crate) fn open_buffer(&self) -> Result<Location, Errno> {
        let mut free = self.free();
        let index = match free.buffers.pop() {
            Some(index) => index,
            None => self
                .extend(&mut free, 2, self.layout.buffers())
                .ok_or(Errno::ENOMEM)?,
        };
        self.place(index).inspect_err(|_| free.buffers.push(index))
    }

    /// Takes a buffer back, whose bytes are nobody's any more.
    pub(crate) fn close_buffer(&self, index: u32) {
        if self.is_frozen() {
            return;
        }
        let mut free = self.free();
        if let (Some(file), true) = (&self.file, free.buffers.len() >= WARM_BUFFERS) {
            let offset = (self.layout.tables_bytes() + index as usize * BUFFER_STRIDE) as i64;
            let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
            // Without it the memory is kept for the next use.
            let _ = fallocate(file, flags, offset, BUFFER_STRIDE as i64);
        }
        free.buffers.push(index);
    }

    /// Returns all buffers that were ever used; after [`Ledger::adopt`], before any is opened.
    pub(crate) fn used_buffers(&self) -> Result<Vec<Location>, Errno> {
        let free = self.free();
        (0..free.used[2]).map(|index| self.place(index)).collect()
    }

    /// Finds a buffer. Its part of the file is mapped when the lists are locked, so by one thread at a time.
    fn place(&self, index: u32) -> Result<Location, Errno> {
        let (chunk, number) = (
            index as usize / CHUNK_BUFFERS,
            index as usize % CHUNK_BUFFERS,
        );
        let mapping = match self.chunks[chunk].get() {
            Some(mapping) => mapping.clone(),
            None => {
                let length = CHUNK_BUFFERS * BUFFER_STRIDE;
                let offset = self.layout.tables_bytes() + chunk * length;
                let mapping = Arc::new(Mapping::new(self.file(), offset, length)?);
                self.chunks[chunk].get_or_init(|| mapping).clone()
            }
        };
        Ok(Location {
            index,
            mapping,
            offset: number * BUFFER_STRIDE,
        })
    }

    fn extend(&self, free: &mut Free, table: usize, limit: usize) -> Option<u32> {
        let index = free.used[table];
        if index as usize >= limit {
            return None;
        }
        free.used[table] += 1;
        self.used_word(table)
            .store(u64::from(index) + 1, Ordering::Release);
        Some(index)
    }

    fn used_word(&self, table: usize) -> &AtomicU64 {
        self.tables.word((1 + table) * WORD)
    }

    fn head(&self, ticket: Ticket) -> &AtomicU64 {
        self.tables.word(self.place_of(ticket))
    }

    fn place_of(&self, ticket: Ticket) -> usize {
        match ticket.table() {
            Table::Records => self.layout.record_at(ticket.index()),
            Table::Pipes => self.layout.pipe_at(ticket.index()),
        }
    }

    fn free(&self) -> MutexGuard<'_, Free> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
