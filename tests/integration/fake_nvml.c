/* A libnvidia-ml with two GPUs, for machines without one. What happens to them stands in the directory FAKE_NVML:
 * a file "xid" is an error of GPU 1 (reported once, then it is removed), "processes" has lines "pid bytes" of GPU 0. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef unsigned long long u64;
typedef struct { u64 total, free, used; } memory_t;
typedef struct { unsigned version; u64 total, reserved, free, used; } memory_v2_t;
typedef struct { unsigned gpu, memory; } utilization_t;
typedef struct { unsigned pid; u64 used; unsigned gi, ci; } process_t;
typedef struct { void *device; u64 type, data; unsigned gi, ci; } event_t;

static FILE *opened(const char *name, char *path) {
    const char *directory = getenv("FAKE_NVML");
    snprintf(path, 4096, "%s/%s", directory ? directory : "/nonexistent", name);
    return fopen(path, "r");
}
static int is(void *device, long number) { return (long)device == number + 1; }

int nvmlInit_v2(void) { return 0; }
int nvmlShutdown(void) { return 0; }
const char *nvmlErrorString(int code) { return code == 3 ? "Not Supported" : "some error"; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = 2; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) { *device = (void *)(long)(index + 1); return 0; }
int nvmlDeviceGetHandleByUUID(const char *uuid, void **device) {
    if (!strcmp(uuid, "GPU-fake0")) *device = (void *)1;
    else if (!strcmp(uuid, "GPU-fake1")) *device = (void *)2;
    else return 6;
    return 0;
}
int nvmlDeviceGetName(void *device, char *name, unsigned size) { snprintf(name, size, "NVIDIA H100 80GB HBM3"); return 0; }
int nvmlDeviceGetUUID(void *device, char *uuid, unsigned size) {
    snprintf(uuid, size, "GPU-fake%d", is(device, 1));
    return 0;
}
int nvmlDeviceGetMigMode(void *device, unsigned *now, unsigned *pending) { *now = *pending = 0; return 0; }
int nvmlDeviceGetMemoryInfo_v2(void *device, memory_v2_t *memory) {
    if (memory->version != (sizeof *memory | 2 << 24)) return 25;
    memory->total = 80ull << 30; memory->used = 3ull << 30; memory->free = 77ull << 30;
    return 0;
}
int nvmlDeviceGetUtilizationRates(void *device, utilization_t *rates) { rates->gpu = 40; rates->memory = 7; return 0; }
int nvmlDeviceGetPowerUsage(void *device, unsigned *milliwatts) { return 3; }
int nvmlDeviceGetTemperature(void *device, unsigned sensor, unsigned *celsius) { *celsius = 61; return 0; }
int nvmlDeviceGetCurrentClocksEventReasons(void *device, u64 *bits) { *bits = 0x20; return 0; }
int nvmlDeviceGetRemappedRows(void *device, unsigned *a, unsigned *b, unsigned *c, unsigned *d) {
    *a = *b = *c = *d = 0;
    return 0;
}
int nvmlDeviceGetComputeRunningProcesses_v3(void *device, unsigned *count, process_t *found) {
    char path[4096];
    FILE *file = is(device, 0) ? opened("processes", path) : NULL;
    unsigned most = *count;
    *count = 0;
    if (!file) return 0;
    while (*count < most && fscanf(file, "%u %llu", &found[*count].pid, &found[*count].used) == 2) ++*count;
    fclose(file);
    return 0;
}
int nvmlEventSetCreate(void **set) { *set = (void *)7; return 0; }
int nvmlEventSetFree(void *set) { return 0; }
int nvmlDeviceRegisterEvents(void *device, u64 types, void *set) { return types == 8 && set == (void *)7 ? 0 : 2; }
int nvmlEventSetWait_v2(void *set, event_t *event, unsigned milliseconds) {
    char path[4096];
    FILE *file = opened("xid", path);
    int number;
    if (!file || fscanf(file, "%d", &number) != 1) {
        if (file) fclose(file);
        usleep(milliseconds * 1000);
        return 10;
    }
    fclose(file);
    unlink(path);
    memset(event, 0, sizeof *event);
    event->device = (void *)2; event->type = 8; event->data = number;
    return 0;
}
