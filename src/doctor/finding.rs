//! What the doctor can find: a closed list of codes, each with its reason and its remedy.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

macro_rules! codes {
    ($($variant:ident $id:literal $name:literal, $why:literal, $advice:literal;)*) => {
        /// A fault that the doctor knows. The numbers and names stay the same in all versions.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Code {
            $(#[doc = $why] $variant,)*
        }

        impl Code {
            /// Every code, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The number, such as `R101`.
            pub const fn id(self) -> &'static str {
                match self {
                    $(Self::$variant => $id,)*
                }
            }

            /// The name, such as `nodes-not-joined`.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }

            /// Why it matters.
            pub const fn why(self) -> &'static str {
                match self {
                    $(Self::$variant => $why,)*
                }
            }

            /// What to do.
            pub const fn advice(self) -> &'static str {
                match self {
                    $(Self::$variant => $advice,)*
                }
            }
        }
    };
}

codes! {
    NodesNotJoined "R101" "nodes-not-joined",
        "A client receives only what is published in its own part. After a restart that takes it to another node, it receives nothing.",
        "Join the nodes: with EMQX, `emqx ctl cluster join NAME@HOST` on each node of the smaller part, with ports 4370 and 5370 open between all nodes and the same cookie on all.";
    OneWayRouting "R102" "one-way-routing",
        "Messages go from one node to another and not back: a firewall drops one direction, a bridge is set up on one side only, or the cluster is healing from a partition.",
        "Compare what each node says of the cluster (`emqx ctl cluster status`), open ports 4370 and 5370 in both directions, and set up a bridge on both sides.";
    NodeRoutesNothing "R103" "node-routes-nothing",
        "The node accepts clients and messages, and delivers none, not even to a subscriber of its own: health checks call it healthy.",
        "Look at the log of the node and restart it; drain it until then: `remora ctl drain NODE`. If a rule of its ACL drops messages without a word, allow the topic of the doctor.";
    MessagesLost "R104" "messages-lost",
        "Some messages between these nodes do not arrive, so that clients miss some of theirs.",
        "Look for overload on the nodes and on the network between them: full queues, `emqx ctl broker metrics` (dropped messages), lost packets; and for a limit on the rate of clients.";
    SlowRouting "R105" "slow-routing",
        "Messages between these nodes arrive late: their connection is slow, or one of them is overloaded.",
        "Look at the load of both nodes and at the round trip between them; `[doctor] slow_after` says what counts as late.";
    TopicForbidden "R106" "topic-forbidden",
        "The node does not allow the doctor to use its topic, so nothing can be said of its routes. That is no fault of the routing.",
        "Allow the topic of the doctor and all below it to its user, for publishing and subscribing, or set `[doctor] topic` to one that is allowed.";
    RetainedNotShared "R107" "retained-not-shared",
        "A retained message is on some nodes only. A client that comes to another node does not receive the last value.",
        "Let the cluster share retained messages; with bridges, forward them as well.";
    SharedNotOnce "R108" "shared-not-once",
        "Messages to a shared subscription ($share) are delivered more than once or not at all: its members do not share one queue over all nodes.",
        "Let the nodes form one cluster: nodes joined by bridges each have a group of their own.";
    NodeStalls "R109" "node-stalls",
        "The node accepts a client and then does not answer it. Its clients wait in vain, and health checks call it healthy.",
        "Look at the log and the load of the node, and at its connections to the other nodes; restart it, and drain it until then: `remora ctl drain NODE`.";
    ProbeLimited "R110" "probe-limited",
        "The node limits how much the doctor may send, so its routes were not measured to the end.",
        "Raise the limit for the doctor's user, or run it less often.";
    ConnectionLost "R111" "connection-lost",
        "The node ended the connection of the doctor while its routes were measured, as it may end those of clients.",
        "Look at the node's log: it says why. Some nodes do this to a client that publishes or subscribes where it may not.";
    Configuration "S201" "configuration",
        "`run` accepts the configuration, and something in it is not as it should be.",
        "`remora check` shows the line and what to write.";
    Descriptors "S202" "descriptors",
        "Each connection needs two descriptors. At the limit, new clients are refused.",
        "Raise the limit of open files: LimitNOFILE in the unit, or `ulimit -n`.";
    SourcePorts "S203" "source-ports",
        "Each connection to a node needs a source port of its own. Without one, clients of that node are taken to others.",
        "Give more source addresses in `[dial] sources`, or a wider net.ipv4.ip_local_port_range.";
    NotResolved "S204" "name-not-resolved",
        "Without an address the node gets no clients.",
        "Correct the name in the configuration, or look at the name server.";
    NodeUnreachable "S205" "node-unreachable",
        "No connection to this endpoint of the node can be made: its clients are taken to other nodes.",
        "Start the node's listener, correct its address, or open the port in firewalls between here and there.";
    ProxyExpected "S206" "proxy-header-expected",
        "The node expects a PROXY header, and gets none: it ends every connection.",
        "Set `proxy_protocol` (`ws_proxy_protocol`, `pass_proxy_protocol`) of the node to \"v2\", or turn it off at the node.";
    ProxyUnexpected "S207" "proxy-header-unexpected",
        "The node gets a PROXY header that it does not expect: it ends every connection.",
        "Turn `proxy_protocol` on at the node, or set the key of the node here to \"off\".";
    WebSocketPath "S208" "websocket-path",
        "The node has no WebSocket endpoint under this path, so that no WebSocket client can be served there.",
        "Write the path that the node serves into its `ws`: EMQX and ejabberd serve /mqtt, RabbitMQ /ws, mosquitto any.";
    WebSocketRefused "S209" "websocket-refused",
        "The node does not upgrade to WebSocket with the subprotocol mqtt.",
        "Look at the node's settings for subprotocols and origins, and whether this is its WebSocket listener.";
    CertificateExpired "S210" "certificate-expired",
        "The node's certificate has expired: no connection to it is made.",
        "Renew the certificate at the node.";
    CertificateName "S211" "certificate-name",
        "The node's certificate is for another name: no connection to it is made.",
        "Set `server_name` of the node to a name in the certificate, or give the node a certificate for this name.";
    CertificateUntrusted "S212" "certificate-untrusted",
        "The node's certificate is not of a trusted authority: no connection to it is made.",
        "Set `[nodes_tls] ca` to the authority's certificate, and let the node send those between.";
    TlsFailed "S213" "tls-failed",
        "There is no TLS with the node, so that no connection to it is made.",
        "Look whether this is the node's TLS listener, which versions it allows, and whether it wants a certificate (`[nodes_tls] certificate`).";
    ClockSkew "S214" "clock-skew",
        "The node's certificate is outside its validity period by this machine's clock, so no connection is made. One of the two clocks is wrong, or the certificate is for later.",
        "Set the clock of this machine and that of the node (NTP); if both are right, the certificate was made with a wrong one.";
    LoginRefused "S215" "login-refused",
        "The node does not let the doctor in, so nothing can be said of its routes. Its clients may be let in all the same.",
        "Give the doctor a user: `[doctor] credentials` names a file with USER:PASSWORD.";
    ConnectRefused "S216" "connect-refused",
        "The node refuses the doctor's CONNECT, as it may refuse those of clients.",
        "Look at the node's log, and whether it is full, draining or starting.";
    NotMqtt "S217" "not-mqtt",
        "What answers at this address does not use MQTT, or expects TLS or a PROXY header first.",
        "Correct the port or the scheme of the node's address.";
    IdleLimit "S218" "idle-limit",
        "Load balancers in front often drop a connection on which nothing passes for 350 s. A client that pings more rarely is then gone without notice, and its messages with it.",
        "Set `idle` in `[keepalive]` to 60s, so that probes pass more often, or give the clients a shorter Keep Alive.";
    FrontNotReached "F301" "front-not-reached",
        "A client cannot connect through the balancer at this address.",
        "Start the balancer, correct the URL, or open the port; with TLS, name the authority with --front-ca. The balancer's log says why it closed a connection (`remora ctl client ID`).";
    FrontForbidden "F302" "front-forbidden",
        "A client that came through the balancer may not use the topic of the doctor, so nothing can be said of what it receives.",
        "Allow the topic of the doctor and all below it to its user, or set `[doctor] topic` to one that is allowed.";
    LostAfterRestart "F303" "lost-after-restart",
        "A client that restarts and subscribes again misses messages, although it came through the balancer.",
        "Messages that come from some nodes only: join the nodes (R101). Messages of none: look at the node that the client is on (`remora ctl client ID`).";
    ApiRefused "C401" "api-refused",
        "The nodes do not answer this key, so that their own view of the cluster cannot be compared.",
        "Write a key of the nodes' API into the file of `[nodes_api] credentials`, as KEY:SECRET; the role viewer is enough.";
    ApiUnusable "C402" "api-unusable",
        "The node's API says nothing of its cluster.",
        "Correct `api` of the node, or open the port; EMQX has its API at port 18083.";
    ViewsDiffer "C403" "views-differ",
        "The nodes do not belong to one cluster, by what they say themselves: messages of one part do not reach the clients of another.",
        "Join the nodes: `emqx ctl cluster join NAME@HOST` on each node of the smaller part, with ports 4370 and 5370 open between all nodes.";
    MemberStopped "C404" "member-stopped",
        "A member of the cluster does not run, so that the others carry its clients.",
        "Start it, or take it out of the cluster: `emqx ctl cluster force-leave NAME@HOST`.";
    VersionsDiffer "C405" "versions-differ",
        "Members of one cluster have different versions. That is as it should be only while they are upgraded one after the other.",
        "Finish the upgrade.";
    PastTheBalancer "C406" "past-the-balancer",
        "Clients that connect to a node directly are not tied to their home: where routing is broken, their messages reach only a part of the others.",
        "Give these clients the balancer's address, and let the nodes' listeners take connections from the balancer only.";
    OffHome "C501" "off-home",
        "Many clients are not on the node that their id leads to, and two balancers may not agree where they are.",
        "Look whether their home is up; then bring them home: `remora ctl rebalance`.";
    IdsChange "C502" "ids-change",
        "A client whose id changes at every connect comes to another node each time, and finds no session.",
        "Give each client a fixed id of its own: `clientId` in MQTT.js, `client_id` in Paho, `-i` in mosquitto.";
    IdsTwice "C503" "ids-twice",
        "Two clients have one id, or the nodes do not end the older connection, as they do in one cluster: each may receive the messages of the other.",
        "Give each client an id of its own; if it is one client, join the nodes (R101).";
    IdsFight "C504" "ids-fight",
        "Two clients with one id end each other's connection again and again, or one is refused and tries without a pause.",
        "See the ids and the causes: `remora ctl clients --reconnecting 10`; give each client an id of its own.";
    QuietClients "C505" "quiet-clients",
        "These clients are connected, receive nothing, and are on a node whose routes are broken: they may be those who wait for messages.",
        "Heal the routes of the node first; see the clients with `remora ctl clients --quiet 10m`.";
    SessionsLeft "C506" "sessions-left-behind",
        "The session of a client that comes back with another id is never found again: its node keeps it, and the messages for it, until it expires.",
        "Give each client a fixed id of its own, or let its session end with the connection: `clean: true` in MQTT.js, a clean session, in MQTT 5 no Session Expiry Interval.";
}

/// How sure the doctor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Certainty {
    /// It was seen, and nothing else explains it.
    Certain,
    /// It was seen, and something else may explain it.
    Likely,
}

impl Certainty {
    /// The word in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Certain => "certain",
            Self::Likely => "likely",
        }
    }
}

/// Something that an operator should change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What it is.
    pub code: Code,
    /// The nodes or listeners that it is about.
    pub subjects: Vec<String>,
    /// What was looked at.
    pub looked_at: String,
    /// What was found there.
    pub found: String,
    /// How sure that is.
    pub certainty: Certainty,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn numbers_and_names_are_unique_and_in_order() {
        let ids: Vec<_> = Code::ALL.iter().map(|code| code.id()).collect();
        let sections: Vec<_> = ids.iter().map(|id| &id[1..]).collect();
        assert!(sections.is_sorted(), "{ids:?}");
        assert_eq!(BTreeSet::from_iter(&ids).len(), ids.len());
        let names: BTreeSet<_> = Code::ALL.iter().map(|code| code.name()).collect();
        assert_eq!(names.len(), ids.len());
    }
}
