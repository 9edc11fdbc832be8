//! The events, as a stream of server-sent events (WHATWG HTML, section 9.2).

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll};
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::StatusCode;
use hyper::body::{Body, Bytes, Frame};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::call::{Call, Refusal, Reply};
use super::reader::Reader;

/// The most readers at a time: each holds a connection for as long as it likes.
const READERS_MAX: usize = 32;

/// How often a reader without events gets an empty line. What is between sees that the connection is used, and a reader that has
/// gone gives its place back: of one that closes, only the side is seen that it writes on, and many close that one and read.
const KEEP_ALIVE: Duration = Duration::from_secs(3);

/// Answers with the events from `since` on, or with those that will come; `follow=false` ends with what is kept.
pub(super) async fn show(call: Call) -> Result<Reply, Refusal> {
    let events = call.handle.events();
    let since = call.query::<u64>("since", "the number of the last event that is known")?;
    let follows = call.query::<bool>("follow", "true or false")?.unwrap_or(true);
    let place = place().ok_or_else(|| {
        let error = format!("{READERS_MAX} readers follow the events already: end one of them");
        Refusal::new(StatusCode::SERVICE_UNAVAILABLE, error)
    })?;
    let next = match since {
        // Of a process before this one.
        Some(since) if since > events.newest() => events.oldest(),
        Some(since) => since + 1,
        None if follows => events.newest() + 1,
        None => events.oldest(),
    };
    // What is no longer kept cannot be sent; the numbers show that.
    let next = next.max(events.oldest());
    let reader = Arc::new(Reader {
        events,
        next: AtomicU64::new(next),
    });
    let stream = Stream {
        waiting: wait(&reader),
        reader: Arc::clone(&reader),
        follows,
        is_over: false,
        _place: place,
    };
    Ok(Reply::Events(stream.boxed_unsync(), reader))
}

/// A place among the readers, of all balancers of this process.
fn place() -> Option<OwnedSemaphorePermit> {
    static PLACES: LazyLock<Arc<Semaphore>> = LazyLock::new(|| Arc::new(Semaphore::new(READERS_MAX)));
    Arc::clone(&PLACES).try_acquire_owned().ok()
}

type Waiting = Pin<Box<dyn Future<Output = ()> + Send>>;

struct Stream {
    reader: Arc<Reader>,
    /// Until there is something to send.
    waiting: Waiting,
    follows: bool,
    /// All that this process has to tell was sent.
    is_over: bool,
    _place: OwnedSemaphorePermit,
}

/// Waits for the next event of a reader, or until it is to be shown that the connection is used.
fn wait(reader: &Reader) -> Waiting {
    let next = reader.events.wait_for(reader.next.load(Ordering::Relaxed));
    // If the time has passed, there is nothing to send but an empty line.
    Box::pin(async move {
        let _ = tokio::time::timeout(KEEP_ALIVE, next).await;
    })
}

impl Body for Stream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        /// Enough to be worth a segment, and a bound on what one answer holds.
        const EVENTS_MAX: usize = 64;
        let stream = self.get_mut();
        if stream.is_over {
            return Poll::Ready(None);
        }
        if stream.follows {
            std::task::ready!(stream.waiting.as_mut().poll(cx));
        }
        let reader = &stream.reader;
        let next = reader.next.load(Ordering::Relaxed);
        let Ok(mut events) = reader.events.from(next) else {
            return Poll::Ready(None);
        };
        events.truncate(EVENTS_MAX);
        if events.is_empty() && !stream.follows {
            return Poll::Ready(None);
        }
        let mut text = String::new();
        for event in &events {
            // What comes then is told by the process that has taken over.
            stream.is_over |= event.change.is_handed_over();
            // Strings and numbers always serialize.
            let data = serde_json::to_string(event).unwrap_or_default();
            text += &format!("id: {}\ndata: {data}\n\n", event.id);
        }
        if events.is_empty() {
            text.push_str(":\n\n");
        }
        reader.next.store(next + events.len() as u64, Ordering::Relaxed);
        stream.waiting = wait(reader);
        Poll::Ready(Some(Ok(Frame::data(text.into()))))
    }
}
