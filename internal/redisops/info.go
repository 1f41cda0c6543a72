package redisops

import "strings"

// ParseInfo gives the fields of a reply to INFO by their names. What is no field, such as the titles of sections, is left
// out; of fields of one name the last counts.
func ParseInfo(text string) map[string]string {
	info := make(map[string]string)
	for line := range strings.Lines(text) {
		if key, value, found := strings.Cut(strings.TrimSpace(line), ":"); found {
			info[key] = value
		}
	}
	return info
}
