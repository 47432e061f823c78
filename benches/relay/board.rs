//! The numbers that peers, target and scenario share during one run. Only counters: who reads them decides what they mean.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// The most streams that run at once.
pub const LANES: usize = 64;

/// Bytes of one direction of one stream.
#[derive(Debug, Default)]
pub struct Count {
    /// Taken by the kernel from the sender.
    pub sent: AtomicU64,
    /// Given by the kernel to the receiver.
    pub received: AtomicU64,
    /// The sender has seen the stop and sends no more.
    pub has_ended: AtomicBool,
}

impl Count {
    /// True when the sender is done and every byte has come out.
    pub fn is_complete(&self) -> bool {
        self.has_ended.load(Relaxed) && self.received.load(Relaxed) == self.sent.load(Relaxed)
    }
}

/// Both directions of one stream.
#[derive(Debug, Default)]
pub struct Lane {
    /// Peer to target.
    pub inbound: Count,
    /// Target to peer.
    pub outbound: Count,
}

/// All counters of one run.
#[derive(Debug)]
pub struct Board {
    /// One for each stream of bulk data.
    pub lanes: Vec<Lane>,
    wrong_bytes: AtomicU64,
    failed: AtomicU64,
    first_failure: Mutex<Option<String>>,
    is_stopping: AtomicBool,
    is_closing: AtomicBool,
}

impl Board {
    /// Everything zero.
    pub fn new() -> Self {
        Self {
            lanes: (0..LANES).map(|_| Lane::default()).collect(),
            wrong_bytes: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            first_failure: Mutex::new(None),
            is_stopping: AtomicBool::new(false),
            is_closing: AtomicBool::new(false),
        }
    }

    /// Adds bytes that were not what was sent.
    pub fn add_wrong(&self, bytes: u64) {
        if bytes > 0 {
            self.wrong_bytes.fetch_add(bytes, Relaxed);
        }
    }

    /// Counts a connection that failed, unless the run is being taken down.
    pub fn fail(&self, reason: impl FnOnce() -> String) {
        if self.is_closing() {
            return;
        }
        self.failed.fetch_add(1, Relaxed);
        if let Ok(mut first) = self.first_failure.lock() {
            first.get_or_insert_with(reason);
        }
    }

    /// Bytes that were not what was sent.
    pub fn wrong_bytes(&self) -> u64 {
        self.wrong_bytes.load(Relaxed)
    }

    /// Connections that failed.
    pub fn failed(&self) -> u64 {
        self.failed.load(Relaxed)
    }

    /// Why the first one did.
    pub fn first_failure(&self) -> Option<String> {
        self.first_failure
            .lock()
            .ok()
            .and_then(|first| first.clone())
    }

    /// Tells all senders of bulk data to send no more.
    pub fn stop_streams(&self) {
        self.is_stopping.store(true, Relaxed);
    }

    /// True after [`Self::stop_streams`].
    pub fn is_stopping(&self) -> bool {
        self.is_stopping.load(Relaxed)
    }

    /// From now on the end of a connection is nobody's fault.
    pub fn close(&self) {
        self.is_closing.store(true, Relaxed);
    }

    /// True after [`Self::close`].
    pub fn is_closing(&self) -> bool {
        self.is_closing.load(Relaxed)
    }
}
