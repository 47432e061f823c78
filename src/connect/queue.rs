//! Dials that wait for room at a target: in order of arrival, and only the first of them tries.
//!
//! The kernel tells nobody when a full queue of a listener has room again, so somebody has to try. If all did, each at
//! times of its own, late ones would overtake, and the target would stand idle between. No sockets here and no clock.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::Moment;

/// Pause between two tries of the first, which grows with the time that it has waited: a try costs three calls.
const PAUSE_MIN: Duration = Duration::from_millis(1);
const PAUSE_MAX: Duration = Duration::from_millis(100);
/// One try for each eighth of the time waited: a target that takes one each T is left idle for T/8 at most.
const PAUSE_PART: u32 = 8;

/// How long an answer may take that nothing delays, before any has come, and then at least.
const ANSWER_UNKNOWN: Duration = Duration::from_millis(100);
const ANSWER_MIN: Duration = Duration::from_millis(20);
const ANSWER_MAX: Duration = Duration::from_secs(1);
/// The first one tries again soon, and waits for an answer for a part of the time waited.
const PATIENCE_PART: u32 = 4;

/// How long a service that listened is taken to do so, unless a dial fails: to make sure costs a call.
const LISTENED_TIME: Duration = Duration::from_millis(100);
/// A newcomer waits behind one that has no answer after that time, though it may yet get one.
const OVERTAKING_TIME: Duration = Duration::from_millis(1);

/// One that waits.
#[derive(Clone, Copy, Debug)]
struct Entry {
    /// What its owner knows it by.
    name: u64,
    /// Since when it has tried for the first time, and was neither taken nor found that there is no room.
    trying: Option<Moment>,
}

/// Those that wait, by their numbers.
#[derive(Debug, Default)]
struct Waiting {
    entries: BTreeMap<u64, Entry>,
    /// How many of them try for the first time.
    trying: usize,
    next_number: u64,
    /// When the target last took one.
    progress: Option<Moment>,
    /// When the monitor behind a hybrid socket last answered one that it had taken.
    served: Option<Moment>,
    /// The first has become so, and does not know it yet.
    is_called: bool,
    /// One of them has found that there is no room; else they wait for an answer that is late, and no longer.
    is_short: bool,
    /// Until when it is known that somebody listens there.
    listened_until: Option<Moment>,
    /// How long the target took to answer, the slow ones counting for longer.
    answer: Option<Duration>,
}

impl Waiting {
    fn join(&mut self, name: u64, trying: Option<Moment>) -> u64 {
        let number = self.next_number;
        self.next_number += 1;
        self.entries.insert(number, Entry { name, trying });
        self.trying += usize::from(trying.is_some());
        number
    }

    fn first(&self) -> Option<u64> {
        self.entries.keys().next().copied()
    }

    /// Returns whether a newcomer would overtake somebody.
    fn has_waiting(&self, now: Moment) -> bool {
        self.entries.len() > self.trying || self.is_late(now)
    }

    /// Returns whether the first should have its answer by now.
    fn is_late(&self, now: Moment) -> bool {
        let patience = (self.answer_time() / 2).max(OVERTAKING_TIME);
        let first = self.entries.values().next();
        (first.and_then(|entry| entry.trying)).is_some_and(|since| now - since > patience)
    }

    fn rest(&mut self, number: u64) {
        let entry = self.entries.get_mut(&number);
        let was_trying = entry.is_some_and(|entry| entry.trying.take().is_some());
        self.trying -= usize::from(was_trying);
    }

    fn leave(&mut self, number: u64) {
        let was_first = self.first() == Some(number);
        self.rest(number);
        self.entries.remove(&number);
        self.is_called = (self.is_called || was_first) && !self.entries.is_empty();
        self.is_short &= !self.entries.is_empty();
    }

    /// Returns the first; where there is room, all that wait.
    fn take_called(&mut self) -> Vec<u64> {
        if !std::mem::take(&mut self.is_called) {
            return Vec::new();
        }
        let most = if self.is_short { 1 } else { usize::MAX };
        let called = self.entries.values().take(most);
        let resting = called.filter(|entry| entry.trying.is_none());
        resting.map(|entry| entry.name).collect()
    }

    /// Returns whether one may try.
    fn has_turn(&self, number: u64, now: Moment) -> bool {
        match self.is_short {
            true => self.first() == Some(number),
            false => !self.is_late(now),
        }
    }

    fn resume(&mut self, number: u64, now: Moment) {
        let entry = self.entries.get_mut(&number).filter(|_| !self.is_short);
        if let Some(entry) = entry.filter(|entry| entry.trying.is_none()) {
            entry.trying = Some(now);
            self.trying += 1;
        }
    }

    fn since(&self, arrival: Moment) -> Moment {
        self.progress
            .map_or(arrival, |progress| progress.max(arrival))
    }

    fn pause(&self, arrival: Moment, now: Moment) -> Duration {
        let waited = now - self.since(arrival);
        (waited / PAUSE_PART).clamp(PAUSE_MIN, PAUSE_MAX)
    }

    fn learn(&mut self, answer: Duration) {
        let before = self.answer.unwrap_or_default();
        self.answer = Some(answer.max(before - before / 8));
    }

    /// Returns the time in which an answer comes, with a margin.
    fn answer_time(&self) -> Duration {
        self.answer.unwrap_or_default() * 4
    }

    fn patience(&self) -> Duration {
        let least = self.answer.map_or(ANSWER_UNKNOWN, |_| ANSWER_MIN);
        self.answer_time().clamp(least, ANSWER_MAX)
    }

    fn patience_of_first(&self, arrival: Moment, now: Moment) -> Duration {
        if !self.is_short {
            return self.patience();
        }
        // The network may have become slower than it ever was.
        let waited = (now - self.since(arrival)) / PATIENCE_PART;
        self.answer_time().max(waited).clamp(PAUSE_MIN, ANSWER_MAX)
    }
}

/// Who dials: the queue of the worker, and what that knows the dial by.
#[derive(Clone, Debug, Default)]
pub(crate) struct Caller {
    /// The queue to wait in.
    pub queue: Queue,
    /// What [`Queues::take_called`] gives when it is the turn of this one.
    pub name: u64,
}

impl Caller {
    /// Lines up behind the others; leaves when the place is dropped.
    pub(super) fn join(&self) -> Place {
        self.queue.join(self.name, None)
    }

    /// Tries before there is anybody to wait for, so that nobody may overtake this one either.
    pub(super) fn try_at(&self, now: Moment) -> Place {
        self.queue.join(self.name, Some(now))
    }
}

/// The queues of one worker, one for each target, who is told whose turn it is.
#[derive(Debug)]
pub(crate) struct Queues {
    each: Box<[Queue]>,
    /// Somebody is called in one of them: a worker asks in each round, and there may be a thousand.
    is_called: Arc<AtomicBool>,
}

impl Queues {
    /// Makes as many.
    pub(crate) fn new(count: usize) -> Queues {
        let is_called = Arc::new(AtomicBool::new(false));
        let queue = |_| Queue {
            waiting: Arc::default(),
            is_called: is_called.clone(),
        };
        Queues {
            each: (0..count).map(queue).collect(),
            is_called,
        }
    }

    /// Returns the queue of the target with that number.
    pub(crate) fn of(&self, target: usize) -> Queue {
        self.each[target].clone()
    }

    /// Returns those whose turn has come since the last call, by the names that they were given: one of each queue, unless
    /// there is room.
    pub(crate) fn take_called(&self) -> Vec<u64> {
        match self.is_called.swap(false, Ordering::Relaxed) {
            true => self.each.iter().flat_map(Queue::take_called).collect(),
            false => Vec::new(),
        }
    }
}

/// The dials of one worker that wait for room at one target.
#[derive(Clone, Debug, Default)]
pub(crate) struct Queue {
    waiting: Arc<Mutex<Waiting>>,
    is_called: Arc<AtomicBool>,
}

impl Queue {
    /// Returns those whose turn has come since the last call, by the names that they were given: one, unless there is room.
    fn take_called(&self) -> Vec<u64> {
        self.lock().take_called()
    }

    /// Returns whether somebody waits, whom no newcomer may overtake.
    pub(super) fn has_waiting(&self, now: Moment) -> bool {
        self.lock().has_waiting(now)
    }

    fn join(&self, name: u64, trying: Option<Moment>) -> Place {
        Place {
            number: self.lock().join(name, trying),
            queue: self.clone(),
        }
    }

    /// Notes that the target took one.
    pub(super) fn progress(&self, now: Moment) {
        self.lock().progress = Some(now);
    }

    /// Returns since when one that arrived at that time waits in vain: the target has taken nobody since.
    pub(super) fn since(&self, arrival: Moment) -> Moment {
        self.lock().since(arrival)
    }

    /// Notes that one was answered that had been taken before.
    pub(super) fn serve(&self, now: Moment) {
        self.lock().served = Some(now);
    }

    /// Returns since when one that was taken waits for its answer while nobody gets one.
    pub(super) fn unserved_since(&self, taken: Moment) -> Moment {
        self.lock().served.map_or(taken, |served| served.max(taken))
    }

    /// Notes whether somebody listens at the target, as far as the last dial could tell.
    pub(super) fn note_listener(&self, is_there: bool, now: Moment) {
        self.lock().listened_until = is_there.then_some(now + LISTENED_TIME);
    }

    /// Returns whether somebody listened at the target a moment ago.
    pub(super) fn has_listener(&self, now: Moment) -> bool {
        self.lock().listened_until.is_some_and(|until| now < until)
    }

    /// Notes how long the target took to answer, where nothing but itself can delay it.
    pub(super) fn learn(&self, answer: Duration) {
        self.lock().learn(answer);
    }

    /// Returns after what time without an answer there was no room, where nothing but the target can delay it.
    pub(super) fn patience(&self) -> Duration {
        self.lock().patience()
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Whoever panicked has left nothing half done in it.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place in the queue; the next one is called when it is given up.
#[derive(Debug)]
pub(super) struct Place {
    number: u64,
    queue: Queue,
}

impl Place {
    /// Returns whether all who came before have left.
    pub(super) fn is_first(&self) -> bool {
        self.queue.lock().first() == Some(self.number)
    }

    /// Waits from now on, if there was no room until there is some.
    pub(super) fn rest(&self, is_short: bool) {
        let mut waiting = self.queue.lock();
        waiting.rest(self.number);
        waiting.is_short |= is_short;
    }

    /// Tries as if for the first time, unless there was no room.
    pub(super) fn resume(&self, now: Moment) {
        self.queue.lock().resume(self.number, now);
    }

    /// Returns whether it may try: as the first, or where there is room for all.
    pub(super) fn has_turn(&self, now: Moment) -> bool {
        self.queue.lock().has_turn(self.number, now)
    }

    /// Returns how long the first, that arrived at that time, may rest until it tries again.
    pub(super) fn pause(&self, arrival: Moment, now: Moment) -> Duration {
        self.queue.lock().pause(arrival, now)
    }

    /// Returns how long the first waits for an answer, as [`Queue::patience`] does for others.
    pub(super) fn patience(&self, arrival: Moment, now: Moment) -> Duration {
        self.queue.lock().patience_of_first(arrival, now)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut waiting = self.queue.lock();
        waiting.leave(self.number);
        // While it is locked: who sees the one sees the other.
        (self.queue.is_called).fetch_or(waiting.is_called, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Moment {
        Moment::from_nanoseconds(1_000_000_000 + ms * 1_000_000)
    }

    const fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    #[test]
    fn places_are_given_up_in_any_order_the_first_that_is_left_is_called_once() {
        let queue = Queue::default();
        let mut places: Vec<Option<Place>> =
            (0..5).map(|name| Some(queue.join(name, None))).collect();
        let is_first = |place: &Option<Place>| place.as_ref().is_some_and(Place::is_first);
        places[4].as_ref().unwrap().rest(true);
        assert!(is_first(&places[0]) && !is_first(&places[1]));
        // The first has joined by itself and needs no call.
        assert!(queue.take_called().is_empty());
        places[2] = None;
        assert!(queue.take_called().is_empty());
        places[0] = None;
        assert_eq!(queue.take_called(), [1]);
        assert!(queue.take_called().is_empty());
        assert!(is_first(&places[1]) && !is_first(&places[3]));
        places[1] = None;
        places[3] = None;
        assert_eq!(queue.take_called(), [4]);
        places[4] = None;
        assert!(queue.take_called().is_empty());
        assert!(!queue.has_waiting(at(0)));
    }

    #[test]
    fn four_thousand_wait_and_each_is_called_once_in_its_order() {
        let queue = Queue::default();
        let places: Vec<Place> = (0..4096).map(|name| queue.join(name, None)).collect();
        let mut called = vec![0];
        places[4095].rest(true);
        for place in places {
            assert!(place.is_first());
            drop(place);
            called.extend(queue.take_called());
        }
        assert!(called.into_iter().eq(0..4096));
    }

    #[test]
    fn newcomers_wait_behind_one_that_has_no_answer_and_it_is_not_called() {
        let queue = Queue::default();
        let place = queue.join(7, Some(at(0)));
        assert!(!queue.has_waiting(at(0)));
        assert!(queue.has_waiting(at(2)));
        let newcomer = queue.join(8, Some(at(0)));
        let late = queue.join(9, None);
        assert!(queue.has_waiting(at(0)));
        drop(place);
        // Not the one that tries already.
        assert_eq!(queue.take_called(), [9]);
        newcomer.rest(true);
        drop(newcomer);
        assert_eq!(queue.take_called(), [9]);
        drop(late);
        assert!(!queue.has_waiting(at(9)));
        // Where answers take their time, others need not wait for them.
        queue.learn(ms(40));
        let _place = queue.join(7, Some(at(0)));
        assert!(!queue.has_waiting(at(80)));
    }

    #[test]
    fn those_that_waited_for_a_late_answer_are_called_together_when_it_comes() {
        let queue = Queue::default();
        let late = queue.join(0, Some(at(0)));
        let places: Vec<Place> = (1..4).map(|name| queue.join(name, None)).collect();
        assert!(!places[0].has_turn(at(5)));
        drop(late);
        assert_eq!(queue.take_called(), [1, 2, 3]);
        assert!(places.iter().all(|place| place.has_turn(at(5))));
        // They do not make newcomers wait.
        places.iter().for_each(|place| place.resume(at(5)));
        assert!(!queue.has_waiting(at(5)));
        // Unless one of them finds that there is no room.
        places[1].rest(true);
        assert!(queue.has_waiting(at(5)));
        assert!(places[0].has_turn(at(5)) && !places[1].has_turn(at(5)));
        drop(places);
        assert!(!queue.has_waiting(at(5)));
    }

    #[test]
    fn time_in_which_others_are_served_is_not_counted() {
        let queue = Queue::default();
        assert_eq!(queue.since(at(10)), at(10));
        queue.progress(at(5000));
        assert_eq!(queue.since(at(10)), at(5000));
        assert_eq!(queue.since(at(6000)), at(6000));
    }

    #[test]
    fn the_first_tries_often_while_others_are_served_and_seldom_when_nobody_is() {
        let queue = Queue::default();
        let place = queue.join(0, None);
        assert_eq!(place.pause(at(0), at(0)), PAUSE_MIN);
        assert_eq!(place.pause(at(0), at(80)), ms(10));
        assert_eq!(place.pause(at(0), at(60_000)), PAUSE_MAX);
        queue.progress(at(60_000));
        assert_eq!(place.pause(at(0), at(60_000)), PAUSE_MIN);
    }

    #[test]
    fn a_target_that_answers_slowly_is_given_time() {
        let queue = Queue::default();
        assert_eq!(queue.patience(), ANSWER_UNKNOWN);
        queue.learn(ms(0));
        assert_eq!(queue.patience(), ANSWER_MIN);
        queue.learn(ms(80));
        assert_eq!(queue.patience(), ms(320));
        queue.learn(ms(0));
        assert_eq!(queue.patience(), ms(280));
        queue.learn(ms(900));
        assert_eq!(queue.patience(), ANSWER_MAX);
        let (queue, now) = (Queue::default(), at(400));
        let place = queue.join(0, None);
        place.rest(true);
        assert_eq!(place.patience(at(0), now), ms(100));
        queue.progress(now);
        assert_eq!(place.patience(at(0), now), PAUSE_MIN);
    }

    #[test]
    fn queues_of_several_targets_are_called_each_for_itself() {
        let queues = Queues::new(3);
        let join = |target: usize, name: u64| queues.of(target).join(name, None);
        let (first, other) = (join(0, 1), join(2, 2));
        let _behind = [join(0, 3), join(2, 4)];
        assert!(queues.take_called().is_empty());
        drop(first);
        assert_eq!(queues.take_called(), [3]);
        assert!(queues.take_called().is_empty());
        drop(other);
        assert_eq!(queues.take_called(), [4]);
    }
}
