/* The decoding server's loop without Python: what the same socket and checks cost in C.
   Usage: realtime echo|serve. Prints its port; answers until it is killed. The decoder is a parity. */
#include <arpa/inet.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

enum { SLOT = 256, HEAD = 24, SYNDROMES = 24 };
static const uint32_t REQUEST = 0x43555152, RESPONSE = 0x43555153;
static const uint32_t ENQUEUE = 0x7ED8BE82, CORRECTIONS = 0x882D5BA1, RESET = 0x977A59CF;

/* One caller's shot is enough for a measurement. */
static int64_t count, parity;

static uint32_t word(const uint8_t *at) { uint32_t found; memcpy(&found, at, 4); return found; }
static int64_t number(const uint8_t *at) { int64_t found; memcpy(&found, at, 8); return found; }

/* Carry a call out; return the length of its answer, 0 for none. */
static size_t answer(const uint8_t *in, size_t size, uint8_t *out) {
    if (size < HEAD || size > SLOT || word(in) != REQUEST || word(in + 8) > size - HEAD) return 0;
    uint32_t function = word(in + 4), length = word(in + 8), status = 0, result = 0;
    const uint8_t *payload = in + HEAD;
    if (function == ENQUEUE) {
        int64_t bits = length < 32 ? 0 : number(payload + 24);
        if (bits < 1 || bits > SYNDROMES || length != 32 + (bits + 7) / 8 || number(payload)) {
            status = 2;
        } else {
            for (int64_t i = 0; i < bits; i++) parity ^= payload[32 + i / 8] >> (i % 8) & 1;
            count += bits;
        }
    } else if (function == CORRECTIONS) {
        if (length != 17 || number(payload + 8) != 1) status = 2;
        else if (count != SYNDROMES) status = 4;
        else { out[HEAD] = (uint8_t)parity; result = 1; count = parity = 0; }
    } else if (function == RESET) {
        count = parity = 0;
    } else {
        return 0;
    }
    memcpy(out, &RESPONSE, 4);
    memcpy(out + 4, &status, 4);
    memcpy(out + 8, &result, 4);
    memcpy(out + 12, in + 12, 12);
    return HEAD + result;
}

int main(int argc, char **argv) {
    int port = socket(AF_INET, SOCK_DGRAM, 0), echoes = argc > 1 && !strcmp(argv[1], "echo");
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t long_at = sizeof at;
    if (port < 0 || bind(port, (struct sockaddr *)&at, sizeof at)) return 1;
    getsockname(port, (struct sockaddr *)&at, &long_at);
    printf("READY port=%d\n", ntohs(at.sin_port));
    fflush(stdout);
    for (uint8_t in[SLOT + 1], out[SLOT];;) {
        struct sockaddr_in caller;
        socklen_t long_caller = sizeof caller;
        ssize_t size = recvfrom(port, in, sizeof in, 0, (struct sockaddr *)&caller, &long_caller);
        if (size < 0) continue;
        size_t length = echoes ? (size_t)size : answer(in, (size_t)size, out);
        if (length) sendto(port, echoes ? in : out, length, 0, (struct sockaddr *)&caller, long_caller);
    }
}
