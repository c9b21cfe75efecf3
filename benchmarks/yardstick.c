/* A buddy allocator with a per-CPU list in front, and slabs of 64-byte objects with a CPU's slab in front, and
 * nothing else: no watermarks, statistics, owners, migratetypes or checks. It is the least that the same work costs in C, for comparison with the model.
 * Prints "name ns" lines. Build: cc -O2 -o yardstick yardstick.c */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { ORDERS = 11, BATCH = 63 };

static uint32_t pages, *next, *prev;
static uint8_t *order_of;
static uint32_t pcp[1 << 13], pcp_count, pcp_high = 4000;

static void list_add(int order, uint32_t page)
{
	uint32_t h = pages + order, first = next[h];
	next[h] = page, prev[page] = h, next[page] = first, prev[first] = page;
	order_of[page] = order + 1;
}

static void list_del(uint32_t page)
{
	next[prev[page]] = next[page], prev[next[page]] = prev[page];
	order_of[page] = 0;
}

static void buddy_free(uint32_t page, int order)
{
	while (order < ORDERS - 1) {
		uint32_t buddy = page ^ (1u << order);
		if (buddy >= pages || order_of[buddy] != order + 1)
			break;
		list_del(buddy);
		page &= buddy;
		order++;
	}
	list_add(order, page);
}

static uint32_t buddy_alloc(int order)
{
	for (int current = order; current < ORDERS; current++) {
		uint32_t page = next[pages + current];
		if (page == pages + current)
			continue;
		list_del(page);
		while (current > order) {
			current--;
			list_add(current, page + (1u << current));
		}
		return page;
	}
	abort();
}

static uint32_t page_alloc(int order)
{
	if (order)
		return buddy_alloc(order);
	if (!pcp_count)
		for (int i = 0; i < BATCH; i++)
			pcp[pcp_count++] = buddy_alloc(0);
	return pcp[--pcp_count];
}

static void page_free(uint32_t page, int order)
{
	if (order) {
		buddy_free(page, order);
		return;
	}
	pcp[pcp_count++] = page;
	if (pcp_count >= pcp_high)
		for (int i = 0; i < BATCH; i++)
			buddy_free(pcp[--pcp_count], 0);
}

enum { SLABS = 1 << 12, SLAB_BYTES = 4096, OBJECT = 64 };

static struct slab {
	void *free; /* each free object begins with a pointer to the next */
	int inuse, next;
} slabs[SLABS];
static char *slab_memory;
static void *cpu_free;
static int cpu_slab = -1, partial = -1, slab_count;

static void *slab_alloc(void)
{
	while (!cpu_free) {
		if (cpu_slab >= 0 && slabs[cpu_slab].free) {
			/* what others freed meanwhile */
		} else if (partial >= 0) {
			cpu_slab = partial;
			partial = slabs[partial].next;
		} else {
			cpu_slab = slab_count++;
			char *at = slab_memory + (size_t)cpu_slab * SLAB_BYTES;
			for (int i = SLAB_BYTES / OBJECT - 1; i >= 0; i--) {
				*(void **)(at + i * OBJECT) = slabs[cpu_slab].free;
				slabs[cpu_slab].free = at + i * OBJECT;
			}
		}
		cpu_free = slabs[cpu_slab].free;
		slabs[cpu_slab].free = NULL;
		slabs[cpu_slab].inuse = SLAB_BYTES / OBJECT;
	}
	void *object = cpu_free;
	cpu_free = *(void **)object;
	return object;
}

static void slab_free(void *object)
{
	int at = ((char *)object - slab_memory) / SLAB_BYTES;
	if (at == cpu_slab) {
		*(void **)object = cpu_free;
		cpu_free = object;
		return;
	}
	if (!slabs[at].free) { /* it was full, and on no list */
		slabs[at].next = partial;
		partial = at;
	}
	*(void **)object = slabs[at].free;
	slabs[at].free = object;
	slabs[at].inuse--;
}

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1e9 + t.tv_nsec;
}

static void measure(const char *name, int order, uint32_t batch, int shuffle, int repeats)
{
	uint32_t *held = malloc(batch * sizeof *held);
	double best = 1e18;
	for (int r = 0; r < repeats; r++) {
		double took = now();
		for (uint32_t i = 0; i < batch; i++)
			held[i] = page_alloc(order);
		took = now() - took;
		if (shuffle)
			for (uint32_t i = batch - 1; i > 0; i--) {
				uint32_t j = rand() % (i + 1), swap = held[i];
				held[i] = held[j], held[j] = swap;
			}
		double start = now();
		for (uint32_t i = 0; i < batch; i++)
			page_free(held[i], order);
		took += now() - start;
		if (took < best)
			best = took;
	}
	printf("%s %.2f\n", name, best / batch);
	free(held);
}

static void measure_slab(const char *name, int batch, int shuffle, int repeats, int rounds)
{
	void **held = malloc(batch * sizeof *held);
	double best = 1e18;
	for (int r = 0; r < repeats; r++) {
		double start = now(), unmeasured = 0;
		for (int round = 0; round < rounds; round++) {
			for (int i = 0; i < batch; i++)
				held[i] = slab_alloc();
			if (shuffle) {
				double from = now();
				for (int i = batch - 1; i > 0; i--) {
					int j = rand() % (i + 1);
					void *swap = held[i];
					held[i] = held[j], held[j] = swap;
				}
				unmeasured += now() - from;
			}
			__asm__ volatile("" ::: "memory");
			for (int i = 0; i < batch; i++)
				slab_free(held[i]);
		}
		double took = (now() - start - unmeasured) / rounds;
		if (took < best)
			best = took;
	}
	printf("%s %.2f\n", name, best / batch);
	free(held);
}

int main(void)
{
	pages = 1u << 20; /* 4 GiB */
	next = calloc(pages + ORDERS, sizeof *next), prev = calloc(pages + ORDERS, sizeof *prev);
	order_of = calloc(pages, 1);
	for (int order = 0; order < ORDERS; order++)
		next[pages + order] = prev[pages + order] = pages + order;
	for (uint32_t page = pages; page; page -= 1024)
		list_add(10, page - 1024);
	measure("order0_hot", 0, 32, 0, 2000);
	measure("order0_bulk128", 0, 128, 0, 2000);
	measure("order0_32k", 0, 32768, 0, 50);
	measure("order0_random_free", 0, 32768, 1, 50);
	measure("order3", 3, 8192, 0, 50);
	measure("order9", 9, 512, 0, 200);
	slab_memory = calloc(SLABS, SLAB_BYTES);
	measure_slab("slab_pair", 1, 0, 20, 100000);
	measure_slab("slab_bulk64", 64, 0, 20, 2000);
	measure_slab("slab_random_free", 32768, 1, 20, 1);
	return 0;
}
