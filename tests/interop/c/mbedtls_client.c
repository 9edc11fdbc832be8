/* A small device with mbedTLS: PORT CA ID TOPIC VERSION FRAGMENT [CERTIFICATE KEY].
 *
 * FRAGMENT is the most bytes of a record that it asks for: 512, 1024, or 0 for any. mbedTLS 2.28 speaks TLS 1.2 only. */

#include "mqtt.h"

#include <mbedtls/ctr_drbg.h>
#include <mbedtls/entropy.h>
#include <mbedtls/ssl.h>

static int to_wire(void *wire, const unsigned char *bytes, size_t count) {
    return send(((struct wire *)wire)->fd, bytes, count, MSG_NOSIGNAL);
}

static int from_wire(void *wire, unsigned char *buffer, size_t count) { return wire_receive(wire, buffer, count); }

static int send_all(void *tls, const unsigned char *bytes, size_t count) {
    while (count) {
        int sent = mbedtls_ssl_write(tls, bytes, count);
        if (sent <= 0) return sent;
        bytes += sent, count -= sent;
    }
    return 1;
}

static int receive(void *tls, unsigned char *buffer, size_t count) { return mbedtls_ssl_read(tls, buffer, count); }

int main(int argc, char **argv) {
    struct wire wire;
    mbedtls_entropy_context entropy;
    mbedtls_ctr_drbg_context random;
    mbedtls_ssl_config config;
    mbedtls_ssl_context tls;
    mbedtls_x509_crt ca, own;
    mbedtls_pk_context key;
    int code;
    if (argc != 7 && argc != 9) fail("arguments", argc);
    if (strcmp(argv[5], "1.2")) fail("no such version here", 0);
    mbedtls_entropy_init(&entropy), mbedtls_ctr_drbg_init(&random), mbedtls_ssl_config_init(&config), mbedtls_ssl_init(&tls);
    mbedtls_x509_crt_init(&ca), mbedtls_x509_crt_init(&own), mbedtls_pk_init(&key);
    if ((code = mbedtls_ctr_drbg_seed(&random, mbedtls_entropy_func, &entropy, NULL, 0))) fail("no randomness", code);
    if ((code = mbedtls_x509_crt_parse_file(&ca, argv[2]))) fail(argv[2], code);
    code = mbedtls_ssl_config_defaults(&config, MBEDTLS_SSL_IS_CLIENT, MBEDTLS_SSL_TRANSPORT_STREAM, MBEDTLS_SSL_PRESET_DEFAULT);
    if (code) fail("defaults", code);
    mbedtls_ssl_conf_rng(&config, mbedtls_ctr_drbg_random, &random);
    mbedtls_ssl_conf_ca_chain(&config, &ca, NULL);
    mbedtls_ssl_conf_authmode(&config, MBEDTLS_SSL_VERIFY_REQUIRED);
    if (atoi(argv[6])) {
        int length = atoi(argv[6]) == 512 ? MBEDTLS_SSL_MAX_FRAG_LEN_512 : MBEDTLS_SSL_MAX_FRAG_LEN_1024;
        if ((code = mbedtls_ssl_conf_max_frag_len(&config, length))) fail("max_frag_len", code);
    }
    if (argc == 9) {
        if ((code = mbedtls_x509_crt_parse_file(&own, argv[7]))) fail(argv[7], code);
        if ((code = mbedtls_pk_parse_keyfile(&key, argv[8], NULL))) fail(argv[8], code);
        if ((code = mbedtls_ssl_conf_own_cert(&config, &own, &key))) fail("own certificate", code);
    }
    if ((code = mbedtls_ssl_setup(&tls, &config))) fail("setup", code);
    if ((code = mbedtls_ssl_set_hostname(&tls, "localhost"))) fail("server name", code);
    wire_connect(&wire, argv[1]);
    mbedtls_ssl_set_bio(&tls, &wire, to_wire, from_wire, NULL);
    if ((code = mbedtls_ssl_handshake(&tls))) fail("handshake", -code);
    printf("%s %s\n", mbedtls_ssl_get_version(&tls), mbedtls_ssl_get_ciphersuite(&tls));
    receive_one(&tls, send_all, receive, argv[3], argv[4]);
    printf("largest record %zu\n", wire.largest);
    mbedtls_ssl_close_notify(&tls);
    return 0;
}
