/* Gloo's threads, late: each goes on only a while after it has told who waits for it.
Preloaded into a process.

On a machine with much to do the same comes from a thread being scheduled out at this point. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <string.h>
#include <time.h>

static double seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec + 1e-9 * now.tv_nsec;
}

static void notify(const char* function, void* variable) {
  void (*original)(void*) = dlsym(dlopen("libstdc++.so.6", RTLD_LAZY), function);
  original(variable);
  char name[32] = "";
  pthread_getname_np(pthread_self(), name, sizeof name);
  if (strcmp(name, "pt_gloo_runloop") == 0)
    for (double end = seconds() + 0.3; seconds() < end;)
      ;
}

/* std::condition_variable::notify_one() and notify_all() */
void _ZNSt18condition_variable10notify_oneEv(void* variable) {
  notify("_ZNSt18condition_variable10notify_oneEv", variable);
}

void _ZNSt18condition_variable10notify_allEv(void* variable) {
  notify("_ZNSt18condition_variable10notify_allEv", variable);
}
