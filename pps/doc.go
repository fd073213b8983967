// Package pps serves the pipeline API (pps_v2.API): specs and their versions,
// start and stop, and logs. Only spouts can be created so far; everything that
// belongs to other kinds of pipelines answers UNIMPLEMENTED and says so.
//
// The service decides what should run and stores it, together with the repos,
// branches and commits that go with it, in one transaction of package pfs. Package
// scheduler makes it so and reports in records of its own, which the service only
// reads.
package pps
