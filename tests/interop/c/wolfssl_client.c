/* A small device with wolfSSL: PORT CA ID TOPIC VERSION FRAGMENT [CERTIFICATE KEY].
 *
 * VERSION is 1.2 or 1.3; FRAGMENT is the most bytes of a record that it asks for: 512, 1024, or 0 for any. */

#include <wolfssl/options.h>
#include <wolfssl/ssl.h>

#include "mqtt.h"

static int from_wire(WOLFSSL *tls, char *buffer, int count, void *wire) {
    ssize_t received = wire_receive(wire, buffer, count);
    (void)tls;
    return received > 0 ? received : WOLFSSL_CBIO_ERR_CONN_CLOSE;
}

static int send_all(void *tls, const unsigned char *bytes, size_t count) {
    while (count) {
        int sent = wolfSSL_write(tls, bytes, count);
        if (sent <= 0) return sent;
        bytes += sent, count -= sent;
    }
    return 1;
}

static int receive(void *tls, unsigned char *buffer, size_t count) {
    int received = wolfSSL_read(tls, buffer, count);
    return received > 0 ? received : wolfSSL_get_error(tls, received);
}

int main(int argc, char **argv) {
    struct wire wire;
    WOLFSSL_CTX *context;
    WOLFSSL *tls;
    if (argc != 7 && argc != 9) fail("arguments", argc);
    wolfSSL_Init();
    context = wolfSSL_CTX_new(strcmp(argv[5], "1.3") ? wolfTLSv1_2_client_method() : wolfTLSv1_3_client_method());
    if (!context) fail("no such version here", 0);
    if (wolfSSL_CTX_load_verify_locations(context, argv[2], NULL) != WOLFSSL_SUCCESS) fail(argv[2], 0);
    if (argc == 9) {
        if (wolfSSL_CTX_use_certificate_chain_file(context, argv[7]) != WOLFSSL_SUCCESS) fail(argv[7], 0);
        if (wolfSSL_CTX_use_PrivateKey_file(context, argv[8], WOLFSSL_FILETYPE_PEM) != WOLFSSL_SUCCESS) fail(argv[8], 0);
    }
    wolfSSL_CTX_SetIORecv(context, from_wire);
    tls = wolfSSL_new(context);
    wolfSSL_check_domain_name(tls, "localhost");
    if (wolfSSL_UseSNI(tls, WOLFSSL_SNI_HOST_NAME, "localhost", 9) != WOLFSSL_SUCCESS) fail("server name", 0);
    if (atoi(argv[6])) {
        int length = atoi(argv[6]) == 512 ? WOLFSSL_MFL_2_9 : WOLFSSL_MFL_2_10;
        if (wolfSSL_UseMaxFragment(tls, length) != WOLFSSL_SUCCESS) fail("max fragment", 0);
    }
    wire_connect(&wire, argv[1]);
    wolfSSL_set_fd(tls, wire.fd);
    wolfSSL_SetIOReadCtx(tls, &wire);
    if (wolfSSL_connect(tls) != WOLFSSL_SUCCESS) fail("handshake", wolfSSL_get_error(tls, 0));
    printf("%s %s\n", wolfSSL_get_version(tls), wolfSSL_get_cipher(tls));
    receive_one(tls, send_all, receive, argv[3], argv[4]);
    printf("largest record %zu\n", wire.largest);
    wolfSSL_shutdown(tls);
    return 0;
}
