/* The ends of what is measured: they cost so little that they do not limit it.
 *
 *   traffic sink PORT            takes all that comes, and answers its number (8 bytes) once the other half is closed
 *   traffic serve PORT BYTES [RATE]  sends BYTES (0: without end) on each connection, at most RATE a second
 *   traffic echo PORT            sends back what comes
 *   traffic answer PORT          sends back what comes, for many short connections: in one process
 *   traffic push PORT BYTES SECONDS  sends BYTES to a sink (0: what goes in SECONDS); prints seconds and bytes
 *   traffic pull PORT SECONDS    reads to the end, or for SECONDS if not 0; prints seconds and bytes
 *   traffic ping PORT COUNT US [SECONDS]  one byte there and back, COUNT times, US microseconds apart, within SECONDS; prints
 *                                each in seconds, but for one before them all, for which a channel has to be opened
 *   traffic opens PORT COUNT AT_ONCE  opens COUNT connections, AT_ONCE at a time, for a byte there and back; prints seconds and count
 *   traffic stuck PORT COUNT     opens COUNT connections and never reads; says "ready" once all of them are open
 *
 * PORT is one of 127.0.0.1, or ADDRESS:PORT. A server says "ready" once it listens, and takes each connection in a process of its own.
 */
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define PIECE (256 * 1024)
#define MOST_AT_ONCE 256

static char buffer[1024 * 1024];

static double now(void)
{
	struct timespec at;
	clock_gettime(CLOCK_MONOTONIC, &at);
	return at.tv_sec + at.tv_nsec / 1e9;
}

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static struct sockaddr_in place(const char *port)
{
	struct sockaddr_in found = {.sin_family = AF_INET};
	char address[INET_ADDRSTRLEN] = "127.0.0.1";
	const char *colon = strchr(port, ':');
	if (colon)
		snprintf(address, sizeof address, "%.*s", (int)(colon - port), port);
	found.sin_port = htons(atoi(colon ? colon + 1 : port));
	if (inet_pton(AF_INET, address, &found.sin_addr) != 1)
		fail(port);
	return found;
}

static void no_delay(int fd)
{
	int one = 1;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
}

/* A socket for `address`; on this machine nothing has to be paced, as BBR would. */
static int socket_for(const struct sockaddr_in *address)
{
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	if (ntohl(address->sin_addr.s_addr) >> 24 == IN_LOOPBACKNET)
		setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, "reno", 4);
	return fd;
}

static int dial(const char *port)
{
	struct sockaddr_in address = place(port);
	int fd = socket_for(&address);
	if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address))
		fail("connect");
	no_delay(fd);
	return fd;
}

static long long drain(int fd, double seconds)
{
	long long total = 0;
	double end = now() + seconds;
	ssize_t count;
	while ((count = read(fd, buffer, sizeof buffer)) > 0) {
		total += count;
		if (seconds > 0 && now() >= end)
			break;
	}
	return total;
}

static long long feed(int fd, long long bytes, double seconds, double rate)
{
	long long total = 0;
	double began = now(), end = began + seconds;
	while (bytes ? total < bytes : seconds == 0 || now() < end) {
		long long left = bytes ? bytes - total : PIECE;
		ssize_t count = write(fd, buffer, left < PIECE ? left : PIECE);
		if (count <= 0)
			return -1;
		total += count;
		double early = rate > 0 ? total / rate - (now() - began) : 0;
		if (early > 0)
			usleep((useconds_t)(early * 1e6));
	}
	return total;
}

static struct pollfd asked(const char *port)
{
	struct pollfd connection = {.fd = dial(port), .events = POLLIN};
	if (write(connection.fd, "", 1) != 1)
		fail("write");
	return connection;
}

static void opens(const char *port, long count, long at_once)
{
	static struct pollfd open[MOST_AT_ONCE];
	long begun = 0, ended = 0;
	if (at_once > MOST_AT_ONCE)
		at_once = MOST_AT_ONCE;
	if (at_once > count)
		at_once = count;
	for (; begun < at_once; begun++)
		open[begun] = asked(port);
	while (ended < count && poll(open, at_once, -1) > 0)
		for (long i = 0; i < at_once; i++) {
			if (!open[i].revents)
				continue;
			if (read(open[i].fd, buffer, sizeof buffer) != 1)
				fail("read");
			close(open[i].fd);
			ended++;
			if (begun++ < count)
				open[i] = asked(port);
			else
				open[i].fd = -1;
		}
}

static void stick(const char *port, long count)
{
	while (count--)
		dial(port);
	puts("ready");
	fflush(stdout);
	for (;;)
		pause();
}

static void serve_one(const char *what, int fd, long long bytes, double rate)
{
	ssize_t count;
	no_delay(fd);
	if (!strcmp(what, "sink")) {
		int64_t total = drain(fd, 0);
		if (write(fd, &total, sizeof total) != sizeof total)
			exit(1);
	} else if (!strcmp(what, "serve")) {
		if (feed(fd, bytes, 0, rate) >= 0 && !shutdown(fd, SHUT_WR))
			drain(fd, 0);
	} else {
		while ((count = read(fd, buffer, sizeof buffer)) > 0)
			if (write(fd, buffer, count) != count)
				break;
	}
}

static void answer(int listening)
{
	static struct pollfd open[1 + MOST_AT_ONCE];
	int count = 1;
	open[0] = (struct pollfd){.fd = listening, .events = POLLIN};
	while (poll(open, count, -1) > 0) {
		for (int i = count - 1; i > 0; i--) {
			if (!open[i].revents)
				continue;
			ssize_t got = read(open[i].fd, buffer, sizeof buffer);
			if (got <= 0 || write(open[i].fd, buffer, got) != got) {
				close(open[i].fd);
				open[i] = open[--count];
			}
		}
		if (open[0].revents && count <= MOST_AT_ONCE) {
			open[count] = (struct pollfd){.fd = accept(listening, NULL, NULL), .events = POLLIN};
			if (open[count].fd >= 0)
				no_delay(open[count++].fd);
		}
	}
}

static void serve(const char *what, const char *port, long long bytes, double rate)
{
	struct sockaddr_in address = place(port);
	int one = 1, fd = socket_for(&address);
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	if (bind(fd, (struct sockaddr *)&address, sizeof address) || listen(fd, 1024))
		fail("listen");
	signal(SIGCHLD, SIG_IGN);
	signal(SIGPIPE, SIG_IGN);
	puts("ready");
	fflush(stdout);
	if (!strcmp(what, "answer"))
		answer(fd);
	for (;;) {
		int connection = accept(fd, NULL, NULL);
		if (connection < 0)
			continue;
		if (fork() == 0) {
			prctl(PR_SET_PDEATHSIG, SIGTERM);
			close(fd);
			serve_one(what, connection, bytes, rate);
			_exit(0);
		}
		close(connection);
	}
}

int main(int argc, char **argv)
{
	if (argc < 3)
		return 2;
	const char *what = argv[1], *port = argv[2];
	double first = argc > 3 ? atof(argv[3]) : 0, second = argc > 4 ? atof(argv[4]) : 0;

	if (!strcmp(what, "sink") || !strcmp(what, "serve") || !strcmp(what, "echo") ||
	    !strcmp(what, "answer"))
		serve(what, port, (long long)first, second);

	double began = now();
	if (!strcmp(what, "opens")) {
		opens(port, (long)first, (long)second);
		printf("%.6f %ld\n", now() - began, (long)first);
		return 0;
	}
	if (!strcmp(what, "stuck"))
		stick(port, (long)first);

	int fd = dial(port);
	began = now();
	if (!strcmp(what, "push")) {
		int64_t got = -1, sent = feed(fd, (long long)first, second, 0);
		if (sent < 0)
			fail("write");
		shutdown(fd, SHUT_WR);
		if (recv(fd, &got, sizeof got, MSG_WAITALL) != sizeof got || got != sent) {
			fprintf(stderr, "the sink got %lld bytes of %lld\n", (long long)got, (long long)sent);
			return 1;
		}
		printf("%.6f %lld\n", now() - began, (long long)sent);
	} else if (!strcmp(what, "pull")) {
		long long total = drain(fd, first);
		printf("%.6f %lld\n", now() - began, total);
	} else {
		double end = began + (argc > 5 ? atof(argv[5]) : 1e9);
		for (long done = 0; done <= (long)first && (done <= 1 || now() < end); done++) {
			double sent = now();
			if (write(fd, buffer, 1) != 1 || read(fd, buffer, 1) != 1)
				fail("ping");
			if (done > 0)
				printf("%.7f\n", now() - sent);
			if (second > 0)
				usleep((useconds_t)second);
		}
	}
	return 0;
}
