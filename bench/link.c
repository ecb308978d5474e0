/* A link in user space, for kernels without netem: a rate, a delay, and a queue before them, in each direction.
 *
 *   link relay PORT PORT BYTES_PER_S SECONDS QUEUE    ends TCP: what comes to the first PORT goes on to the second
 *   link packets BYTES_PER_S SECONDS QUEUE            joins two network namespaces by a tun device in each
 *
 * PORTs are of 127.0.0.1, SECONDS the delay one way, QUEUE the bytes that may wait before the link: a relay that has
 * more does not read, so that a sender's kernel learns nothing of its queue, and packets that come then are dropped.
 * The namespaces last as long as this process: they are its descriptors NEAR_FD and FAR_FD, to be entered through /proc.
 * In them the link's ends are 192.0.2.1 and 192.0.2.2. "ready" is printed when it can be used.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/virtio_net.h>
#include <net/if.h>
#include <netinet/ip.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define NEAR_FD 10
#define FAR_FD 11
#define SEGMENT 1448
#define MOST_PACKET (65536 + sizeof(struct virtio_net_hdr))
#define GRAIN_S 100e-6 /* how long what comes and what is due may wait, so that it is dealt with together */

struct piece {
	double due;
	uint32_t size, gone;
	char data[];
};

/* Pieces lie in a ring of memory one after the other; one that would reach beyond its end lies at its start. */
struct direction {
	int in, out;
	double free_at; /* when the link has taken all that came */
	char *ring;
	size_t size, first, next, wrap;
	int ended; /* nothing more comes; 2: and that was passed on */
};

static double rate, delay;
static size_t queue;
static int of_packets;

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

static size_t piece_size(size_t size)
{
	return (sizeof(struct piece) + size + 15) & ~(size_t)15;
}

static struct direction direction(int in, int out)
{
	struct direction way = {.in = in, .out = out, .size = 2 * (queue + (size_t)(rate * delay)) + (1 << 22)};
	way.ring = mmap(NULL, way.size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (way.ring == MAP_FAILED)
		fail("mmap");
	way.wrap = way.size;
	return way;
}

/* Room for one more piece of up to `most` bytes, or NULL. */
static struct piece *room(struct direction *way, size_t most)
{
	size_t wanted = piece_size(most);
	if (way->next >= way->first) {
		if (way->next + wanted <= way->size)
			return (struct piece *)(way->ring + way->next);
		if (wanted >= way->first)
			return NULL;
		way->wrap = way->next;
		way->next = 0;
	}
	return way->next + wanted < way->first ? (struct piece *)(way->ring + way->next) : NULL;
}

static struct piece *front(struct direction *way)
{
	if (way->first == way->wrap && way->next < way->first) {
		way->first = 0;
		way->wrap = way->size;
	}
	return way->first == way->next ? NULL : (struct piece *)(way->ring + way->first);
}

/* What goes over the wire: a packet that the kernel has not cut up yet has headers for each part. */
static double on_wire(const char *data, size_t size)
{
	const struct virtio_net_hdr *head = (const void *)data;
	if (!of_packets)
		return size;
	size -= sizeof *head;
	if (head->gso_type != VIRTIO_NET_HDR_GSO_NONE && head->gso_size && size > head->hdr_len)
		size += (size - head->hdr_len - 1) / head->gso_size * head->hdr_len;
	return size;
}

/* Take what comes, up to now. */
static void take(struct direction *way)
{
	size_t most = of_packets ? MOST_PACKET : SEGMENT;
	while (!way->ended) {
		double at = now(), waiting = (way->free_at - at) * rate;
		struct piece *piece;
		ssize_t count;
		if (!of_packets && waiting > queue)
			return;
		piece = room(way, most);
		if (!piece && !of_packets)
			return;
		static char dropped[MOST_PACKET];
		count = read(way->in, piece ? piece->data : dropped, most);
		if (count < 0 && (errno == EAGAIN || errno == EINTR))
			return;
		if (count <= 0) {
			way->ended = 1;
			return;
		}
		double bytes = on_wire(piece ? piece->data : dropped, count);
		if (!piece || (of_packets && waiting + bytes > queue))
			continue;
		way->free_at = (way->free_at > at ? way->free_at : at) + bytes / rate;
		piece->due = way->free_at + delay;
		piece->size = count;
		piece->gone = 0;
		way->next += piece_size(count);
	}
}

/* Give what is due; returns when there will be more. */
static double give(struct direction *way)
{
	struct piece *piece;
	while ((piece = front(way)) != NULL) {
		if (piece->due > now())
			return piece->due;
		ssize_t count = write(way->out, piece->data + piece->gone, piece->size - piece->gone);
		if (count < 0 && errno == EAGAIN)
			return now() + GRAIN_S;
		if (count < 0 && !of_packets)
			exit(0);
		if (!of_packets && (piece->gone += count) < piece->size)
			return now() + GRAIN_S;
		way->first += piece_size(piece->size);
	}
	if (way->ended == 1) {
		shutdown(way->out, SHUT_WR);
		way->ended = 2;
	}
	return -1;
}

static void carry(int near, int far)
{
	struct direction ways[] = {direction(near, far), direction(far, near)};
	while (ways[0].ended < 2 || ways[1].ended < 2) {
		struct pollfd ready[2];
		struct timespec grain = {0, GRAIN_S * 1e9}, wait;
		double soonest = -1;
		for (int i = 0; i < 2; i++) {
			take(&ways[i]);
			double due = give(&ways[i]);
			if (due >= 0 && (soonest < 0 || due < soonest))
				soonest = due;
			int full = !of_packets && (ways[i].free_at - now()) * rate > queue;
			ready[i] = (struct pollfd){ways[i].ended || full ? -1 : ways[i].in, POLLIN, 0};
		}
		double left = soonest < 0 ? 1 : soonest - now();
		wait.tv_sec = 0;
		wait.tv_nsec = left > 0.5 ? 500000000 : left > 0 ? left * 1e9 : 0;
		ppoll(ready, 2, &wait, NULL);
		nanosleep(&grain, NULL);
	}
}

static struct sockaddr_in at(const char *address, const char *port)
{
	struct sockaddr_in found = {.sin_family = AF_INET, .sin_port = htons(atoi(port))};
	inet_pton(AF_INET, address, &found.sin_addr);
	return found;
}

static void relay(const char *near, const char *far)
{
	struct sockaddr_in here = at("127.0.0.1", near), there = at("127.0.0.1", far);
	int one = 1, listener = socket(AF_INET, SOCK_STREAM, 0);
	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	if (bind(listener, (struct sockaddr *)&here, sizeof here) || listen(listener, 1024))
		fail("listen");
	signal(SIGCHLD, SIG_IGN);
	signal(SIGPIPE, SIG_IGN);
	puts("ready");
	fflush(stdout);
	for (;;) {
		int accepted = accept(listener, NULL, NULL);
		if (accepted < 0)
			continue;
		if (fork() == 0) {
			int dialled = socket(AF_INET, SOCK_STREAM, 0);
			prctl(PR_SET_PDEATHSIG, SIGTERM);
			if (connect(dialled, (struct sockaddr *)&there, sizeof there))
				_exit(1);
			for (int i = 0; i < 2; i++) {
				int fd = i ? accepted : dialled;
				setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
				fcntl(fd, F_SETFL, O_NONBLOCK);
			}
			close(listener);
			carry(accepted, dialled);
			_exit(0);
		}
		close(accepted);
	}
}

static void configure(int asked, struct ifreq *device, unsigned long what, const char *address)
{
	struct sockaddr_in value = at(address, "0");
	memcpy(&device->ifr_addr, &value, sizeof value);
	if (ioctl(asked, what, device))
		fail(address);
}

static void up(int asked, struct ifreq *device)
{
	device->ifr_flags = IFF_UP | IFF_RUNNING;
	if (ioctl(asked, SIOCSIFFLAGS, device))
		fail(device->ifr_name);
}

/* A tun device in a network namespace of its own, which stays open as `held`. */
static int end_of_path(int held, const char *address, const char *other)
{
	struct ifreq tun = {.ifr_name = "link", .ifr_flags = IFF_TUN | IFF_NO_PI | IFF_VNET_HDR};
	struct ifreq loopback = {.ifr_name = "lo"};
	int space, asked, fd;
	if (unshare(CLONE_NEWNET))
		fail("a network namespace");
	space = open("/proc/self/ns/net", O_RDONLY);
	if (space < 0 || dup2(space, held) != held)
		fail("a network namespace");
	close(space);
	fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK);
	if (fd < 0 || ioctl(fd, TUNSETIFF, &tun) || ioctl(fd, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4))
		fail("/dev/net/tun");
	asked = socket(AF_INET, SOCK_DGRAM, 0);
	configure(asked, &tun, SIOCSIFADDR, address);
	configure(asked, &tun, SIOCSIFDSTADDR, other);
	up(asked, &tun);
	up(asked, &loopback);
	close(asked);
	return fd;
}

int main(int argc, char **argv)
{
	of_packets = argc == 5 && !strcmp(argv[1], "packets");
	if (!of_packets && (argc != 7 || strcmp(argv[1], "relay")))
		return 2;
	rate = atof(argv[argc - 3]);
	delay = atof(argv[argc - 2]);
	queue = atof(argv[argc - 1]);
	prctl(PR_SET_TIMERSLACK, 1);
	if (!of_packets)
		relay(argv[2], argv[3]);
	int near = end_of_path(NEAR_FD, "192.0.2.1", "192.0.2.2");
	int far = end_of_path(FAR_FD, "192.0.2.2", "192.0.2.1");
	puts("ready");
	fflush(stdout);
	carry(near, far);
	return 0;
}
