// Package topdenied keeps, in bounded memory, which subjects were denied most often of late, for somebody who is under
// attack and wants to know by whom.
//
// It counts by the algorithm Space-Saving (Metwally, Agrawal, El Abbadi: Efficient Computation of Frequent and Top-k
// Elements in Data Streams, 2005): a subject that is not counted yet takes the place of the one that was denied least
// often, and its count goes on from there; how much of it may belong to others is kept beside it. So no count is below
// the truth, none is above it by more than that, and whoever has more than its share of all denials is among those that
// are kept, however many others come by.
//
// The subjects are values of users. They are shown to whoever may see them (see package debug), and reach no metric and
// no log.
package topdenied
