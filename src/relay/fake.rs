//! A wire of the tests: a script of what it sends, and of how much it takes at each write.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::time::Duration;

use nix::errno::Errno;

use super::pipes::Pipe;
use super::wire::{Received, Wire};
use crate::handover::Buffer;
use crate::peer::Family;

/// Sends and takes by script; when a script is over, it would block.
#[derive(Debug, Default)]
pub struct Fake {
    input: RefCell<VecDeque<Result<Vec<u8>, Errno>>>,
    room: RefCell<VecDeque<usize>>,
    taken: RefCell<Vec<u8>>,
    write_error: Option<Errno>,
    hidden: Option<Errno>,
    finished: usize,
    input_refused: Cell<bool>,
    pub is_acknowledged: Cell<bool>,
    pub stillness: Cell<Option<Duration>>,
}

impl Fake {
    /// Sends these chunks; an empty one is the end.
    pub fn sending(chunks: &[Result<&[u8], Errno>]) -> Fake {
        let input = chunks
            .iter()
            .map(|chunk| chunk.map(<[u8]>::to_vec))
            .collect();
        Fake {
            input: RefCell::new(input),
            room: RefCell::new([usize::MAX; 100].into()),
            ..Fake::default()
        }
    }

    /// Takes that many bytes at each write; 0 would block.
    pub fn taking(room: &[usize]) -> Fake {
        Fake {
            room: RefCell::new(room.iter().copied().collect()),
            ..Fake::default()
        }
    }

    /// Fails at each write.
    pub fn failing(error: Errno) -> Fake {
        Fake::default().but_failing(error)
    }

    /// Fails at each write.
    pub fn but_failing(self, error: Errno) -> Fake {
        Fake {
            write_error: Some(error),
            ..self
        }
    }

    /// Has an error behind its end.
    pub fn hiding(self, error: Errno) -> Fake {
        Fake {
            hidden: Some(error),
            ..self
        }
    }

    pub fn taken(&self) -> Vec<u8> {
        self.taken.borrow().clone()
    }

    pub fn finished(&self) -> usize {
        self.finished
    }

    pub fn is_input_refused(&self) -> bool {
        self.input_refused.get()
    }

    /// Chunks that were not read.
    pub fn unread(&self) -> usize {
        self.input.borrow().len()
    }
}

impl Wire for Fake {
    fn read(&self, buffer: &mut Buffer) -> Result<Received, Errno> {
        let chunk = self
            .input
            .borrow_mut()
            .pop_front()
            .unwrap_or(Err(Errno::EAGAIN))?;
        let count = buffer.load(&chunk);
        Ok(Received {
            count,
            is_short: true,
        })
    }

    fn write(&self, buffer: &mut Buffer) -> Result<usize, Errno> {
        if let Some(error) = self.write_error {
            return Err(error);
        }
        match self.room.borrow_mut().pop_front() {
            None | Some(0) => Err(Errno::EAGAIN),
            Some(room) => {
                let bytes = buffer.unload(room);
                self.taken.borrow_mut().extend(&bytes);
                Ok(bytes.len())
            }
        }
    }

    fn fill(&self, _: &mut Pipe, _: usize) -> Result<usize, Errno> {
        Err(Errno::EINVAL)
    }

    fn drain(&self, _: &mut Pipe) -> Result<usize, Errno> {
        Err(Errno::EINVAL)
    }

    fn finish(&mut self) -> Result<(), Errno> {
        self.finished += 1;
        Ok(())
    }

    fn refuse_input(&self) {
        self.input_refused.set(true);
    }

    fn take_error(&self) -> Option<Errno> {
        self.hidden
    }

    fn is_acknowledged(&self) -> bool {
        self.is_acknowledged.get()
    }

    fn silence(&self) -> Option<Duration> {
        None
    }

    fn stillness(&self) -> Option<Duration> {
        self.stillness.get()
    }

    fn family(&self) -> Family {
        Family::Vsock
    }
}
