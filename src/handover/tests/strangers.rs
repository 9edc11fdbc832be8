//! A stranger at either end of the socket: refused, nothing changed, nothing left open.

use std::cell::RefCell;
use std::fs::File;
use std::io::Read;
use std::net::UdpSocket;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::thread;
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::process::Uid;
use tokio::net::UnixStream;
use tokio::time::Instant;

use super::{At, Plan, PlayedGiver, PlayedTaker, Sockets, World, in_virtual_time};
use crate::handover::channel::{Channel, Side};
use crate::handover::conversation::{Deadlines, Failure};
use crate::handover::giver::{give, turn_away};
use crate::handover::messages::{
    Adopted, Body, DESCRIPTORS_MAX, Hello, ListenSocket, Manifest, Prepared, Received, Relay, Relays, Running,
    Sockets as SocketsMessage, VERSION,
};
use crate::handover::taker::take;
use crate::handover::wire;

fn plan() -> Plan {
    Plan {
        early: vec![1, 2],
        ..Plan::default()
    }
}

/// How a giver ends that meets this at the other end of its socket. It goes on relaying, and nothing of it stays open.
#[track_caller]
fn met_by_giver<S: Future<Output = ()>>(stranger: impl FnOnce(UnixStream) -> S) -> Failure {
    let sockets = Rc::new(Sockets::new());
    let failure = in_virtual_time(async {
        let world = Rc::<RefCell<World>>::default();
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let mut giver = PlayedGiver::new(&world, &sockets, &plan());
        let (given, ()) = tokio::join!(give(ours, &mut giver, Deadlines::default()), stranger(theirs));
        let world = world.borrow();
        assert_eq!(world.of_giver(At::Relayed), [1, 2]);
        assert!(world.giver_accepts);
        given.expect_err("a stranger")
    });
    Rc::into_inner(sockets).expect("the last").check_that_nothing_is_left();
    failure
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(1)
}

/// Sends these messages, whatever comes, and reads until the other side ends.
async fn say(socket: UnixStream, messages: Vec<Body>) {
    let mut channel = Channel::new(socket, Side::Taker).expect("ourselves");
    for message in messages {
        if channel.send(message, &[], soon()).await.is_err() {
            return;
        }
    }
    while channel.receive().await.is_ok() {}
}

fn hello() -> Body {
    Body::Hello(Hello {
        version: VERSION,
        version_oldest: VERSION,
        ..Hello::default()
    })
}

#[test]
fn garbage_is_refused() {
    for garbage in [
        b"GET / HTTP/1.1\r\n\r\n".as_slice(),
        &[0xff; 64],
        &[0, 0, 0, 9, 0, 0, 0, 0, 9, 9, 9, 9, 9, 9, 9, 9, 9],
    ] {
        let failure = met_by_giver(async |socket| {
            socket.try_write(garbage).expect("room");
            say(socket, Vec::new()).await;
        });
        assert!(matches!(failure, Failure::Violation(_)), "{garbage:02x?}: {failure:?}");
    }
}

#[test]
fn half_a_message_ends_with_the_stranger_or_with_the_deadline() {
    let bytes = wire::write(hello(), 0).expect("a message");
    for length in 0..bytes.len() {
        let half = &bytes[..length];
        let write = |socket: &UnixStream| half.is_empty() || socket.try_write(half).is_ok();
        let failure = met_by_giver(async |socket| assert!(write(&socket)));
        assert!(matches!(failure, Failure::Closed), "{length}: {failure:?}");
        let failure = met_by_giver(async |socket| {
            assert!(write(&socket));
            say(socket, Vec::new()).await;
        });
        assert!(matches!(failure, Failure::TooLate(_)), "{length}: {failure:?}");
    }
}

#[test]
fn messages_out_of_order_are_refused() {
    let too_early = [
        vec![Body::Running(Running { relays: 2 })],
        vec![hello(), hello()],
        vec![hello(), Body::Running(Running { relays: 2 })],
        vec![hello(), Body::Received(Received { messages: 9 })],
        vec![
            hello(),
            Body::Prepared(Prepared::default()),
            Body::Prepared(Prepared::default()),
        ],
        vec![
            hello(),
            Body::Prepared(Prepared::default()),
            Body::Running(Running { relays: 2 }),
        ],
        vec![
            hello(),
            Body::Prepared(Prepared::default()),
            Body::Adopted(Adopted { left: vec![3] }),
            Body::Running(Running { relays: 2 }),
        ],
    ];
    for messages in too_early {
        let names: Vec<&str> = messages.iter().map(Body::name).collect();
        let failure = met_by_giver(|socket| say(socket, messages));
        assert!(matches!(failure, Failure::Violation(_)), "{names:?}: {failure:?}");
    }
}

#[test]
fn a_taker_that_says_that_it_runs_is_believed_whatever_it_says_before() {
    let sockets = Rc::new(Sockets::new());
    in_virtual_time(async {
        let world = Rc::<RefCell<World>>::default();
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let mut giver = PlayedGiver::new(&world, &sockets, &plan());
        let taker = async {
            let mut channel = Channel::new(theirs, Side::Taker).expect("ourselves");
            let adopted = Body::Adopted(Adopted { left: Vec::new() });
            for (message, answer) in [
                (hello(), "prepare"),
                (Body::Prepared(Prepared::default()), "complete"),
                (adopted, "go"),
            ] {
                channel.send(message, &[], soon()).await.expect("a giver");
                while channel.receive().await.expect("a giver").body.name() != answer {}
            }
            // Nothing that it may say now, and then that it runs, which both lie in the queue when the giver looks.
            let wrong = wire::write(hello(), 0).expect("a message");
            let running = wire::write(Body::Running(Running { relays: 2 }), 0).expect("a message");
            channel.write_raw(&[wrong, running].concat());
            while channel.receive().await.is_ok() {}
        };
        let (given, ()) = tokio::join!(give(ours, &mut giver, Deadlines::default()), taker);
        let given = given.expect("a handover");
        assert_eq!(given.relays, 2);
        assert!(given.cut_short.is_some());
        assert!(world.borrow().of_giver(At::Relayed).is_empty() && !world.borrow().giver_accepts);
    });
    Rc::into_inner(sockets).expect("the last").check_that_nothing_is_left();
}

#[test]
fn a_taker_that_knows_no_common_version_is_refused() {
    let newer = Body::Hello(Hello {
        version: VERSION + 9,
        version_oldest: VERSION + 1,
        ..Hello::default()
    });
    let mut told = None;
    let failure = met_by_giver(async |socket| {
        let mut channel = Channel::new(socket, Side::Taker).expect("ourselves");
        channel.send(newer, &[], soon()).await.expect("a giver");
        told = Some(channel.receive().await.expect("an answer").body);
    });
    assert!(matches!(failure, Failure::Refusal(_)), "{failure:?}");
    assert!(matches!(told, Some(Body::Refused(_))), "{told:?}");
}

/// Sends a byte of a message with `count` duplicates of this descriptor.
fn send_descriptors(
    socket: &UnixStream,
    bytes: &[u8],
    descriptor: &OwnedFd,
    count: usize,
) -> rustix::io::Result<usize> {
    let mut space = vec![std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = vec![descriptor.as_fd(); count];
    assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)));
    sendmsg(
        socket,
        &[std::io::IoSlice::new(bytes)],
        &mut control,
        SendFlags::NOSIGNAL,
    )
}

#[test]
fn descriptors_for_the_giver_are_closed() {
    let message = wire::write(hello(), 0).expect("a message");
    let mut announced = message.clone();
    announced[7] = 1;
    for (bytes, count) in [
        (message.as_slice(), 1),
        (&message, DESCRIPTORS_MAX),
        (&announced, 1),
        (&message[..3], 5),
    ] {
        let (mut reader, writer) = std::io::pipe().expect("a pipe");
        let writer = OwnedFd::from(writer);
        let failure = met_by_giver(async |socket| {
            send_descriptors(&socket, bytes, &writer, count).expect("room");
            say(socket, Vec::new()).await;
        });
        drop(writer);
        let expected = if bytes.len() == 3 {
            // They may belong to a message that is still to come.
            matches!(failure, Failure::TooLate(_))
        } else {
            matches!(failure, Failure::Violation(_))
        };
        assert!(expected, "{count}: {failure:?}");
        assert_eq!(
            reader.read(&mut [0]).expect("a pipe"),
            0,
            "something still has the other end"
        );
    }
}

#[test]
fn ten_thousand_descriptors_are_closed() {
    let (mut reader, writer) = std::io::pipe().expect("a pipe");
    let writer = OwnedFd::from(writer);
    let mut sent = 0;
    let failure = met_by_giver(async |socket| {
        // As fast as the socket takes them, before the giver has looked.
        while sent < 10_000 {
            match send_descriptors(&socket, b"\0", &writer, 250) {
                Ok(_) => sent += 250,
                Err(rustix::io::Errno::AGAIN) => break,
                Err(error) => panic!("{error}"),
            }
        }
        say(socket, Vec::new()).await;
    });
    assert!(sent > 1_000, "{sent}");
    assert!(matches!(failure, Failure::Violation(_)), "{failure:?}");
    drop(writer);
    assert_eq!(
        reader.read(&mut [0]).expect("a pipe"),
        0,
        "something still has the other end"
    );
}

#[test]
fn a_process_of_another_user_is_turned_away_unread() {
    assert!(rustix::process::geteuid().is_root(), "only root can be another user");
    let pair_of = |user| {
        // The kernel notes who makes the pair. Only this thread becomes another user.
        let make = move || {
            rustix::thread::set_thread_res_uid(user, user, user).expect("root");
            std::os::unix::net::UnixStream::pair().expect("a pair")
        };
        let (ours, theirs) = thread::spawn(make).join().expect("a pair");
        ours.set_nonblocking(true).expect("a socket");
        theirs.set_nonblocking(true).expect("a socket");
        (ours, theirs)
    };
    let sockets = Rc::new(Sockets::new());
    in_virtual_time(async {
        let world = Rc::<RefCell<World>>::default();
        let mut giver = PlayedGiver::new(&world, &sockets, &plan());
        let (ours, theirs) = pair_of(Uid::from_raw(65_534));
        let ours = UnixStream::from_std(ours).expect("a socket");
        let theirs = UnixStream::from_std(theirs).expect("a socket");
        theirs.writable().await.expect("a socket");
        theirs.try_write(&[0xff; 64]).expect("room");
        let failure = give(ours, &mut giver, Deadlines::default())
            .await
            .expect_err("a stranger");
        // What it has sent was not even read: that would be a violation.
        assert!(
            matches!(&failure, Failure::Refusal(why) if why.contains("65534")),
            "{failure:?}"
        );
        assert_eq!(world.borrow().of_giver(At::Relayed), [1, 2]);
        // A taker does not take from a stranger either.
        let (ours, _theirs) = pair_of(Uid::from_raw(65_534));
        let mut taker = PlayedTaker::new(&world, &plan());
        let ours = UnixStream::from_std(ours).expect("a socket");
        let failure = take(ours, &mut taker, Deadlines::default())
            .await
            .expect_err("a stranger");
        assert!(
            matches!(&failure, Failure::Refusal(why) if why.contains("65534")),
            "{failure:?}"
        );
        // The same way, of the same user: it is the user that makes the difference.
        let (ours, theirs) = pair_of(Uid::ROOT);
        let ours = UnixStream::from_std(ours).expect("a socket");
        drop(theirs);
        let failure = give(ours, &mut giver, Deadlines::default()).await.expect_err("nobody");
        assert!(matches!(failure, Failure::Closed), "{failure:?}");
    });
    Rc::into_inner(sockets).expect("the last").check_that_nothing_is_left();
}

#[test]
fn who_comes_second_is_told_why_not() {
    in_virtual_time(async {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        turn_away(ours, "another handover is under way".to_owned()).await;
        let world = Rc::<RefCell<World>>::default();
        let mut taker = PlayedTaker::new(&world, &plan());
        let failure = take(theirs, &mut taker, Deadlines::default())
            .await
            .expect_err("refused");
        assert!(
            matches!(&failure, Failure::Refused(why) if why.contains("under way")),
            "{failure:?}"
        );
    });
}

/// How a taker ends that gets this with these descriptors.
fn met_by_taker(body: Body, descriptors: Vec<OwnedFd>) -> Failure {
    in_virtual_time(async {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let world = Rc::<RefCell<World>>::default();
        let mut taker = PlayedTaker::new(&world, &plan());
        let stranger = async move {
            let mut channel = Channel::new(theirs, Side::Giver).expect("ourselves");
            let manifest = Manifest {
                version: VERSION,
                sockets: 1,
                ..Manifest::default()
            };
            channel
                .send(Body::Manifest(manifest), &[], soon())
                .await
                .expect("a taker");
            channel.send(body, &descriptors, soon()).await.expect("a taker");
            drop(descriptors);
            while channel.receive().await.is_ok() {}
        };
        let (taken, ()) = tokio::join!(take(ours, &mut taker, Deadlines::default()), stranger);
        assert!(taker.held.is_empty() && taker.sockets.is_empty());
        taken.expect_err("a stranger")
    })
}

#[test]
fn a_taker_takes_only_sockets() {
    let sockets = Sockets::new();
    let (mut reader, writer) = std::io::pipe().expect("a pipe");
    let udp = UdpSocket::bind(("127.0.0.1", 0)).expect("a port");
    let (unix, _unix) = std::os::unix::net::UnixStream::pair().expect("a pair");
    let relay = || {
        let relays = vec![Relay::default()];
        Body::Relays(Relays { relays })
    };
    let listen_socket = || {
        let sockets = vec![ListenSocket::default()];
        Body::Sockets(SocketsMessage { sockets })
    };
    let others = [
        OwnedFd::from(File::open("/dev/null").expect("a device")),
        writer.into(),
        udp.into(),
        unix.into(),
    ];
    let copy = |descriptor: &OwnedFd| descriptor.try_clone().expect("a duplicate");
    for other in others.iter().chain([&sockets.listener()]) {
        for pair in [vec![copy(other), sockets.node()], vec![sockets.client(), copy(other)]] {
            let failure = met_by_taker(relay(), pair);
            assert!(matches!(failure, Failure::Violation(_)), "{other:?}: {failure:?}");
        }
    }
    for other in others.iter().chain([&sockets.client()]) {
        let failure = met_by_taker(listen_socket(), vec![copy(other)]);
        assert!(matches!(failure, Failure::Violation(_)), "{other:?}: {failure:?}");
    }
    drop(others);
    assert_eq!(
        reader.read(&mut [0]).expect("a pipe"),
        0,
        "something still has the other end"
    );
    sockets.check_that_nothing_is_left();
}

#[test]
fn a_taker_takes_no_more_sockets_than_announced() {
    let sockets = Sockets::new();
    let two = SocketsMessage {
        sockets: vec![ListenSocket::default(); 2],
    };
    let failure = met_by_taker(Body::Sockets(two), vec![sockets.listener(), sockets.listener()]);
    assert!(matches!(failure, Failure::Violation(_)), "{failure:?}");
    sockets.check_that_nothing_is_left();
}
