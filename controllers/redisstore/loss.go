package redisstore

import v1 "github.com/penstock-dev/penstock/api/v1"

// noticeLoss takes note when Redis has lost its data: a primary is another one than before, and what was published is not
// there any more. A failover that kept all is no loss, and neither is a deletion by somebody, which loses no counters.
func (s *site) noticeLoss(store *v1.RedisStore, seen *observation) {
	status := &store.Status
	before, had := s.identities, s.asked && s.inForce != nil
	if !s.asked && len(seen.facts.Primaries) == 1 {
		// After a restart of the operator; the status does not tell which of several primaries was which.
		before = map[string]string{seen.facts.Primaries[0].Address: status.Identity}
		had = status.ProgrammedHash != ""
	}
	gone := seen.known && seen.inForce == nil
	for _, p := range seen.facts.Primaries {
		if was := before[p.Address]; had && was != "" && p.Identity != "" && was != p.Identity && (gone || p.Empty) {
			s.lost = true
			stateLosses.WithLabelValues(store.Namespace, store.Name).Inc()
			return
		}
	}
}
