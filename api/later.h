// Requests that may take long (they wait for the database, read large files or compute over much of
// the database) run on threads of their own, with their connection suspended, so that they never
// hold a thread of libmicrohttpd.
#pragma once

#include "api/req.h"

// Three pools: many short waits (API_WRITES), few long works (API_LONG), and large reads
// (API_READS), which neither of those keeps waiting. Each has a bounded queue.
enum { API_LATER_POOLS = 3 };
struct api_later;
struct api_later *api_later_new(void); // NULL: out of memory
void api_later_free(struct api_later *l);
// Suspends the request and queues its handler; a full queue answers 503. On MHD's thread.
enum MHD_Result api_later_start(struct api_req *r);
// Called by MHD once the connection has been resumed: sends what the handler answered.
enum MHD_Result api_later_resume(struct api_req *r);
// Answers what waits 503 and returns when no handler runs any more.
void api_later_drain(struct api_later *l);
