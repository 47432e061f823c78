//! Half-close: the peer ends its flow after the question, and the answer comes later. A lost answer is the figure here,
//! not a failure of the run: that some relays lose it is what the table must show.

use std::fs::File;
use std::io::{self, Read, Write};
use std::time::Duration;

use crate::answer::ANSWER_BYTES;
use crate::board::LANES;
use crate::error::{Doing, Result};
use crate::figures::metric::{self, Values};
use crate::greeting::{Greeting, Service};
use crate::pattern::Start;
use crate::run::Run;
use crate::socket;

const ATTEMPTS: u32 = 4;
const QUESTION_BYTES: usize = 256;
const READ_LIMIT: Duration = Duration::from_secs(2);

/// Measures the share of answers that came whole.
pub fn measure(run: &Run, delay_ms: u32) -> Result<Values> {
    let mut peers = Vec::new();
    for stream in LANES as u32..LANES as u32 + ATTEMPTS {
        let file =
            socket::connect_to(&run.address).doing(|| format!("connect to {}", run.address))?;
        peers.push((stream, ask_and_end(file, stream, delay_ms)));
    }
    let kept = peers.into_iter().filter(|(stream, file)| {
        let answer = file.as_ref().ok().and_then(|file| read_answer(file).ok());
        answer.is_some_and(|answer| is_whole(run, *stream, &answer))
    });
    Ok(vec![(
        &metric::KEPT,
        kept.count() as f64 / f64::from(ATTEMPTS),
    )])
}

fn ask_and_end(mut file: File, stream: u32, delay_ms: u32) -> io::Result<File> {
    socket::wait_until_connected(&file, READ_LIMIT)?;
    socket::block_with_limit(&file, READ_LIMIT + Duration::from_millis(delay_ms.into()))?;
    let mut question = Greeting {
        service: Service::AnswerAfterEnd { delay_ms },
        stream,
    }
    .encode()
    .to_vec();
    question.extend_from_slice(Start::inbound(stream).bytes_at(0, QUESTION_BYTES));
    file.write_all(&question)?;
    socket::half_close(&file)?;
    Ok(file)
}

fn read_answer(mut file: &File) -> io::Result<Vec<u8>> {
    let mut answer = Vec::new();
    file.read_to_end(&mut answer)?;
    Ok(answer)
}

fn is_whole(run: &Run, stream: u32, answer: &[u8]) -> bool {
    let length = answer.len().min(ANSWER_BYTES);
    let wrong = Start::outbound(stream).count_wrong(0, &answer[..length]);
    run.board.add_wrong(wrong + (answer.len() - length) as u64);
    answer.len() == ANSWER_BYTES && wrong == 0
}
