/* Sends requests at a rate, whether or not answers come: latencies count from the intended moment.
 *
 *     cc -O2 -o open_loop open_loop.c -lm
 *     ./open_loop HOST PORT REQUEST-FILE RATE SECONDS CONNECTIONS [VERSION TEXT]...
 *
 * A closed loop (wrk) sends less while the server is slow, and so hides what a slow moment does to
 * those who would have come in it ("coordinated omission"). The moments are a Poisson process. One
 * thread spins over non-blocking sockets, since timers are too coarse; what it was late itself is
 * printed too. Requests may be pipelined; what a server that says `connection: close` has not
 * answered is asked again on a new connection (RFC 9112, section 9.3.2). An answer whose
 * `model_version` is VERSION must hold TEXT, or it counts as mixed.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define BUFFER_BYTES (1 << 18)
#define MAX_EVENTS 64
#define PATIENCE_SECONDS 10

typedef struct {
    int fd;
    size_t used;           /* bytes in the buffer */
    size_t partly;         /* bytes of the next request that are sent already */
    double *due;           /* the intended moments of all requests of this connection */
    size_t asked, sent, answered;
    char buffer[BUFFER_BYTES + 1];
} Client;

typedef struct {
    const char *version, *text;
    long count;
} Expected;

static char *request;
static size_t request_bytes;
static struct sockaddr_in address;
static Expected *expected;
static int expected_count, poller;
static double *latencies;
static size_t answers;
static long failed, mixed;

static void die(const char *what) {
    perror(what);
    exit(1);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static double exponential(double rate) {  /* xorshift64*, Vigna 2016 */
    static uint64_t state = 0x9E3779B97F4A7C15u;
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    return -log1p(-(double)((state * 0x2545F4914F6CDD1Du) >> 11) / 9007199254740992.0) / rate;
}

static void connect_client(Client *client) {
    int one = 1;
    client->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (client->fd < 0 || connect(client->fd, (void *)&address, sizeof address)) die("connect");
    setsockopt(client->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    fcntl(client->fd, F_SETFL, O_NONBLOCK);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = client};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, client->fd, &event)) die("epoll_ctl");
    client->used = client->partly = 0;
    client->sent = client->answered;
}

static void send_due(Client *client) {
    while (client->sent < client->asked) {
        ssize_t count = send(client->fd, request + client->partly, request_bytes - client->partly,
                             MSG_NOSIGNAL);
        if (count < 0) return;  /* full: later; broken: reading says so */
        client->partly += count;
        if (client->partly == request_bytes) {
            client->partly = 0;
            client->sent++;
        }
    }
}

static void check(const char *head, const char *body) {
    if (strncmp(head, "HTTP/1.1 200", 12)) {
        failed++;
        return;
    }
    if (!expected_count) return;
    const char *found = strstr(body, "\"model_version\":\"");
    for (int i = 0; found && i < expected_count; i++) {
        size_t length = strlen(expected[i].version);
        if (strncmp(found + 17, expected[i].version, length) || found[17 + length] != '"') continue;
        expected[i].count++;
        if (!strstr(body, expected[i].text)) mixed++;
        return;
    }
    mixed++;
}

/* Takes in whole answers; says whether the last one ends the connection. */
static int take_answers(Client *client) {
    char *at = client->buffer, *end = at + client->used;
    int leaves = 0;
    while (!leaves) {
        *end = 0;
        char *blank = strstr(at, "\r\n\r\n");
        if (!blank) break;
        *blank = 0;
        char *length = strcasestr(at, "\r\ncontent-length: ");
        char *body = blank + 4, *after = body + (length ? strtoul(length + 18, NULL, 10) : 0);
        leaves = strcasestr(at, "\r\nconnection: close") != NULL;
        if (after > end) {
            *blank = '\r';
            leaves = 0;
            break;
        }
        char kept = *after;
        *after = 0;
        check(at, body);
        *after = kept;
        latencies[answers++] = now() - client->due[client->answered++];
        at = after;
    }
    client->used = end - at;
    memmove(client->buffer, at, client->used);
    return leaves;
}

static void receive(Client *client) {
    ssize_t count = recv(client->fd, client->buffer + client->used, BUFFER_BYTES - client->used, 0);
    if (count < 0 && (errno == EAGAIN || errno == EINTR)) return;
    int leaves = 0;
    if (count > 0) {
        client->used += count;
        leaves = take_answers(client);
        if (!leaves && client->used < BUFFER_BYTES) return;
    }
    close(client->fd);
    if (!leaves) {  /* nobody announced it: what it had been sent is lost */
        failed += client->sent - client->answered;
        client->answered = client->sent;
    }
    connect_client(client);
    send_due(client);
}

static int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double ms_at(const double *sorted, size_t count, double share) {
    if (!count) return NAN;
    size_t at = count * share;
    return sorted[at < count ? at : count - 1] * 1000;
}

static void read_request(const char *path) {
    FILE *file = fopen(path, "rb");
    if (!file) die(path);
    fseek(file, 0, SEEK_END);
    request_bytes = ftell(file);
    rewind(file);
    request = malloc(request_bytes);
    if (fread(request, 1, request_bytes, file) != request_bytes) die(path);
    fclose(file);
}

int main(int argc, char **argv) {
    if (argc < 7 || argc % 2 == 0) {
        fprintf(stderr, "HOST PORT REQUEST-FILE RATE SECONDS CONNECTIONS [VERSION TEXT]...\n");
        return 2;
    }
    address.sin_family = AF_INET;
    address.sin_port = htons(atoi(argv[2]));
    if (inet_pton(AF_INET, argv[1], &address.sin_addr) != 1) die(argv[1]);
    read_request(argv[3]);
    double rate = atof(argv[4]), seconds = atof(argv[5]);
    int connections = atoi(argv[6]);
    expected_count = (argc - 7) / 2;
    expected = calloc(expected_count + 1, sizeof *expected);
    for (int i = 0; i < expected_count; i++)
        expected[i] = (Expected){argv[7 + 2 * i], argv[8 + 2 * i], 0};

    size_t most = rate * seconds * 1.5 + 10000, turn = 0;
    latencies = malloc(most * sizeof *latencies);
    double *lateness = malloc(most * sizeof *lateness);
    poller = epoll_create1(0);
    Client *clients = calloc(connections, sizeof *clients);
    for (int i = 0; i < connections; i++) {
        clients[i].due = malloc((most / connections + 1) * sizeof(double));
        connect_client(&clients[i]);
    }

    double start = now(), due = start;
    for (;;) {
        double moment = now();
        for (; due <= moment && due < start + seconds && turn < most; due += exponential(rate)) {
            Client *client = &clients[turn % connections];
            lateness[turn++] = now() - due;
            client->due[client->asked++] = due;
            send_due(client);
        }
        struct epoll_event events[MAX_EVENTS];
        int count = epoll_wait(poller, events, MAX_EVENTS, 0);
        for (int i = 0; i < count; i++) receive(events[i].data.ptr);
        size_t left = 0;
        for (int i = 0; i < connections; i++) {
            send_due(&clients[i]);
            left += clients[i].asked - clients[i].answered;
        }
        if (due >= start + seconds && !left) break;
        if (moment > start + seconds + PATIENCE_SECONDS) {
            failed += left;
            break;
        }
    }
    qsort(latencies, answers, sizeof *latencies, by_size);
    qsort(lateness, turn, sizeof *lateness, by_size);
    printf("{\"rate\": %.1f, \"rps\": %.1f, \"p50_ms\": %.4f, \"p99_ms\": %.4f, \"p999_ms\": %.4f, ",
           rate, answers / seconds, ms_at(latencies, answers, .5), ms_at(latencies, answers, .99),
           ms_at(latencies, answers, .999));
    printf("\"late_p99_ms\": %.4f, \"failed\": %ld, \"mixed\": %ld, \"versions\": {",
           ms_at(lateness, turn, .99), failed, mixed);
    for (int i = 0; i < expected_count; i++)
        printf("%s\"%s\": %ld", i ? ", " : "", expected[i].version, expected[i].count);
    printf("}}\n");
    return 0;
}
