package redisstore

import (
	"testing"
	"time"
)

var midnight = time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)

func TestChangesOfALargeSetArePublishedSoonAfterTheLastOne(t *testing.T) {
	const seconds = 20
	for name, tt := range map[string]struct {
		bytes int
		// between two changes.
		between          time.Duration
		wantPublications int
	}{
		"small, in a burst: the debounce": {10 << 10, 10 * time.Millisecond, 9 * seconds},
		"large, in a burst: 1 %":          {2 << 20, 10 * time.Millisecond, 6},
		"large, now and then":             {2 << 20, 2 * time.Second, seconds / 2},
	} {
		t.Run(name, func(t *testing.T) {
			var p pace
			var e edits
			p.published(midnight, tt.bytes)
			now := midnight.Add(time.Minute)
			first, published, last, unpublished := now, 0, now, false
			for ; now.Sub(first) < seconds*time.Second+time.Second; now = now.Add(time.Millisecond) {
				if since := now.Sub(first); since < seconds*time.Second && since%tt.between == 0 {
					e.note(now)
					last, unpublished = now, true
				}
				if !unpublished || max(e.collect(now, p.spacing()), p.pause(now)) > 0 {
					continue
				}
				e.begin()
				p.published(now, tt.bytes)
				published, unpublished = published+1, false
				if late := now.Sub(last); late > quiet {
					t.Errorf("published %v after the last change", late)
				}
			}
			if unpublished || published < tt.wantPublications || published > tt.wantPublications*11/10+2 {
				t.Errorf("%d publications, want %d or little more", published, tt.wantPublications)
			}
		})
	}
}

func TestPublicationsTakeUnderOnePercentOfRedisOverMinutes(t *testing.T) {
	const bytes = 2 << 20
	var p pace
	now, busy := midnight, time.Duration(0)
	for now.Sub(midnight) < 10*time.Minute {
		if p.pause(now) == 0 {
			p.published(now, bytes)
			busy += loadTime * bytes
		}
		now = now.Add(10 * time.Millisecond)
	}
	// What is saved up before counts once.
	if most := (10*time.Minute + time.Minute) / loadShare; busy > most || busy < 10*time.Minute/loadShare*9/10 {
		t.Errorf("Redis was busy for %v, want up to %v", busy, most)
	}
}
