//! The cost that the relay adds to an echo of 100 bytes: over socket pairs, all ends on one thread, once directly and once through
//! the table.

use std::cell::RefCell;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use criterion::{Criterion, criterion_group, criterion_main};
use socket2::{Domain, Type};
use tokio::runtime::{Builder, LocalOptions, LocalRuntime};
use tokio::time::Instant;

use remora::base::clock::Seconds;
use remora::cluster::NodeId;
use remora::net::socket::Socket;
use remora::path::record::{ListenerId, Record, Steps};
use remora::path::relay::{Outcome, Relayed, Settings, Table};
use remora::path::sides::{Side, Sides};

const MESSAGE: [u8; 100] = [7; 100];

fn pair() -> (Socket, Socket) {
    let (one, other) =
        socket2::Socket::pair_raw(Domain::UNIX, Type::STREAM.nonblocking(), None).expect("a socket pair");
    let socket = |end| Socket::new(OwnedFd::from(end)).expect("a place in epoll");
    (socket(one), socket(other))
}

fn relayed(client: Socket, node: Socket) -> Relayed<Socket> {
    Relayed {
        sides: Sides {
            client: Side::new(client, Vec::new(), 0, false),
            node: Side::new(node, Vec::new(), 0, false),
            frames: None,
        },
        idle_limit: None,
        activity: None,
        node_id: NodeId(0),
        record: Box::new(Record {
            number: 1,
            listener: ListenerId(0),
            client: ([127, 0, 0, 1], 1).into(),
            identity: None,
            accepted: Instant::now(),
            connect: None,
            decision: None,
            node: None,
            retries: 0,
            code: None,
            steps: Steps::default(),
        }),
    }
}

/// Sends back everything that is received, until there is no more.
async fn echo(node: Socket) {
    let mut buffer = [0; 1024];
    while let Ok(read @ 1..) = node.recv(&mut buffer).await {
        if node.send_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}

/// Polls the only relay of `table` until it has ended.
async fn relay(relayed: Relayed<Socket>) {
    let table = Rc::new(RefCell::new(Table::new(&Settings::default())));
    let now = Seconds(0);
    let id = table.borrow_mut().adopt(relayed, now);
    std::future::poll_fn(|cx| match table.borrow_mut().turn(id, now, cx) {
        Outcome::Pending => std::task::Poll::Pending,
        Outcome::Finished(_) | Outcome::Gone => std::task::Poll::Ready(()),
    })
    .await;
}

async fn one_echo(client: &Socket) {
    client.send_all(&MESSAGE).await.expect("an open socket");
    let mut buffer = [0; MESSAGE.len()];
    let mut read = 0;
    while read < MESSAGE.len() {
        read += client.recv(&mut buffer[read..]).await.expect("an echo");
    }
    assert_eq!(buffer, MESSAGE);
}

fn runtime() -> LocalRuntime {
    let mut builder = Builder::new_current_thread();
    let runtime = builder.enable_all().build_local(LocalOptions::default());
    runtime.expect("a runtime")
}

fn bench(criterion: &mut Criterion) {
    let runtime = runtime();
    let _entered = runtime.enter();
    let (client, node) = pair();
    runtime.block_on(async { drop(tokio::task::spawn_local(echo(node))) });
    criterion.bench_function("relay/echo/direct", |bencher| {
        bencher.iter(|| runtime.block_on(one_echo(&client)));
    });
    let (client, from_client) = pair();
    let (to_node, node) = pair();
    runtime.block_on(async {
        tokio::task::spawn_local(relay(relayed(from_client, to_node)));
        tokio::task::spawn_local(echo(node));
    });
    criterion.bench_function("relay/echo/relayed", |bencher| {
        bencher.iter(|| runtime.block_on(one_echo(&client)));
    });
}

criterion_group!(benches, bench);
criterion_main!(benches);
