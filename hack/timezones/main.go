// Command timezones writes the offsets from UTC of every time zone, 2026 to 2045, for internal/translate: so that a
// policy compiles to the same bytes on each machine, whatever time zone database that one has.
//
//	go generate ./internal/translate
//
// reads the database of the Go release in use. A newer one changes policies whose time zone it changes, and no others.
package main

import (
	"archive/zip"
	"bytes"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/penstock-dev/penstock/internal/policy"
)

const header = `# Offsets from UTC by time zone. Written by hack/timezones: do not edit.
# One line for the zones that are alike: their names, a colon, and <since, in Unix seconds>/<offset, in seconds>...
`

var (
	from = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	to   = time.Date(2046, 1, 1, 0, 0, 0, 0, time.UTC)
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: timezones <zoneinfo.zip> <output>")
		os.Exit(2)
	}
	if err := write(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "timezones:", err)
		os.Exit(1)
	}
}

func write(database, output string) error {
	archive, err := zip.OpenReader(database)
	if err != nil {
		return err
	}
	defer func() { _ = archive.Close() }()

	names := map[string][]string{}
	for _, file := range archive.File {
		// Factory is what a machine has that nobody told where it is.
		if file.FileInfo().IsDir() || file.Name == "Factory" {
			continue
		}
		location, err := load(file)
		if err != nil {
			return fmt.Errorf("%s: %w", file.Name, err)
		}
		offsets := offsets(location)
		if len(offsets) > policy.MaxOffsets {
			return fmt.Errorf("%s: %d offsets, more than a policy may have", file.Name, len(offsets))
		}
		line := strings.Join(offsets, " ")
		names[line] = append(names[line], file.Name)
	}

	lines := make([]string, 0, len(names))
	for offsets, alike := range names {
		slices.Sort(alike)
		lines = append(lines, strings.Join(alike, " ")+": "+offsets+"\n")
	}
	slices.Sort(lines)
	var out bytes.Buffer
	out.WriteString(header)
	for _, line := range lines {
		out.WriteString(line)
	}
	return os.WriteFile(output, out.Bytes(), 0o644)
}

func load(file *zip.File) (*time.Location, error) {
	reader, err := file.Open()
	if err != nil {
		return nil, err
	}
	defer func() { _ = reader.Close() }()
	data, err := io.ReadAll(reader)
	if err != nil {
		return nil, err
	}
	return time.LoadLocationFromTZData(file.Name, data)
}

// offsets are those of a zone. The first stands for all time before the second.
func offsets(zone *time.Location) []string {
	var list []string
	last := 0
	for at := from; at.Before(to); {
		_, offset := at.In(zone).Zone()
		start, end := at.In(zone).ZoneBounds()
		// Zones also change their name or what they call daylight saving time, and no offset.
		switch {
		case len(list) == 0:
			list = append(list, fmt.Sprintf("0/%d", offset))
		case offset != last:
			list = append(list, fmt.Sprintf("%d/%d", start.Unix(), offset))
		}
		last = offset
		if end.IsZero() {
			break
		}
		if !end.After(at) {
			// Package time takes the last day of a leap year for the first of the next.
			end = at.Add(24 * time.Hour)
		}
		at = end
	}
	return list
}
