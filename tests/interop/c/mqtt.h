/* What the clients in C share: a TCP connection that measures the records which it receives, and the MQTT 3.1.1 that they speak. */

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

struct wire {
    int fd;
    unsigned char header[5];
    size_t header_bytes, content_left, largest;
};

static void fail(const char *what, int code) {
    printf("failed: %s (%d)\n", what, code);
    exit(1);
}

static void wire_connect(struct wire *wire, const char *port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(port)), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    memset(wire, 0, sizeof *wire);
    wire->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(wire->fd, (struct sockaddr *)&address, sizeof address)) fail("connect", 0);
}

static ssize_t wire_receive(struct wire *wire, void *buffer, size_t count) {
    ssize_t received = recv(wire->fd, buffer, count, 0);
    for (ssize_t i = 0; i < received; i++) {
        if (wire->content_left) {
            wire->content_left--;
            continue;
        }
        wire->header[wire->header_bytes++] = ((unsigned char *)buffer)[i];
        if (wire->header_bytes == sizeof wire->header) {
            wire->content_left = wire->header[3] << 8 | wire->header[4];
            if (wire->content_left > wire->largest) wire->largest = wire->content_left;
            wire->header_bytes = 0;
        }
    }
    return received;
}

/* TLS, as either library reads and writes it: 1 if all was sent, or how many bytes were received. */
typedef int (*send_all_fn)(void *tls, const unsigned char *bytes, size_t count);
typedef int (*receive_fn)(void *tls, unsigned char *buffer, size_t count);

static void read_exactly(void *tls, receive_fn receive, unsigned char *buffer, size_t count) {
    for (size_t have = 0; have < count;) {
        int received = receive(tls, buffer + have, count - have);
        if (received <= 0) fail("the connection ended", received);
        have += received;
    }
}

/* Reads a packet into `body`; returns the length of its body. */
static size_t read_packet(void *tls, receive_fn receive, unsigned char *kind, unsigned char *body, size_t room) {
    unsigned char digit;
    size_t length = 0, shift = 0;
    read_exactly(tls, receive, kind, 1);
    do {
        read_exactly(tls, receive, &digit, 1);
        length |= (size_t)(digit & 127) << shift;
        shift += 7;
    } while (digit & 128);
    if (length > room) fail("a packet is too long", length);
    read_exactly(tls, receive, body, length);
    return length;
}

/* Connects as `id`, subscribes to `topic`, and prints how long the first message there is: a retained one comes at once. */
static void receive_one(void *tls, send_all_fn send_all, receive_fn receive, const char *id, const char *topic) {
    static unsigned char body[70000];
    unsigned char packet[256], kind;
    size_t id_bytes = strlen(id), topic_bytes = strlen(topic), length;
    unsigned char connect[] = {0x10, 12 + id_bytes, 0, 4, 'M', 'Q', 'T', 'T', 4, 2, 0, 60, 0, id_bytes};
    unsigned char subscribe[] = {0x82, 5 + topic_bytes, 0, 1, 0, topic_bytes};
    memcpy(packet, connect, sizeof connect);
    memcpy(packet + sizeof connect, id, id_bytes);
    if (send_all(tls, packet, sizeof connect + id_bytes) != 1) fail("CONNECT", 0);
    length = read_packet(tls, receive, &kind, body, sizeof body);
    if (kind != 0x20 || length != 2 || body[1]) fail("no accepting CONNACK", kind);
    printf("accepted\n");
    memcpy(packet, subscribe, sizeof subscribe);
    memcpy(packet + sizeof subscribe, topic, topic_bytes);
    packet[sizeof subscribe + topic_bytes] = 0;
    if (send_all(tls, packet, sizeof subscribe + topic_bytes + 1) != 1) fail("SUBSCRIBE", 0);
    do length = read_packet(tls, receive, &kind, body, sizeof body);
    while (kind >> 4 != 3);
    printf("received %zu\n", length - 2 - topic_bytes);
    if (send_all(tls, (const unsigned char *)"\xe0", 2) != 1) fail("DISCONNECT", 0);
}
