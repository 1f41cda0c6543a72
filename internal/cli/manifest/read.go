package manifest

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

const (
	// Stdin is the path that stands for standard input.
	Stdin = "-"
	// StdinName is what objects from standard input have as their File.
	StdinName = "<stdin>"
	// MaxFileBytes is the largest file that is read. The API server takes 3 MiB per object.
	MaxFileBytes = 16 << 20
)

var extensions = []string{".yaml", ".yml", ".json"}

// Read reads the manifests of files, of the .yaml, .yml and .json files of folders (with recursive also of those
// below), and of standard input ("-"). In folders, names that begin with a dot are left out: they are editors' and
// tools' own. A file that is reached twice is read once.
//
// What stands in a file and cannot be read is a Problem, and so is a file of a folder that cannot be opened. An error
// means that the paths themselves lead to nothing.
func Read(paths []string, recursive bool, stdin io.Reader) ([]*Object, []Problem, error) {
	var objects []*Object
	var problems []Problem
	seen := make(map[string]bool)
	for _, path := range paths {
		files, inFolder, err := expand(path, recursive)
		if err != nil {
			return nil, nil, err
		}
		for _, file := range files {
			if seen[file] {
				continue
			}
			seen[file] = true
			name, text, err := load(file, stdin)
			switch {
			case err == nil:
			case inFolder:
				problems = append(problems, Problem{File: name, Document: 1, Line: 1, Message: whyNot(file, err)})
				continue
			default:
				return nil, nil, unreadable(name, err)
			}
			found, bad := parse(name, text)
			objects = append(objects, found...)
			problems = append(problems, bad...)
		}
	}
	if len(objects) == 0 && len(problems) == 0 {
		return nil, nil, fmt.Errorf("nothing to read: no manifest in %s", strings.Join(paths, ", "))
	}
	return objects, problems, nil
}

// Folders gives the folders whose changes change what Read reads: those of the paths, the folders of files, and with
// recursive all below.
func Folders(paths []string, recursive bool) ([]string, error) {
	var folders []string
	for _, path := range paths {
		info, err := os.Stat(path)
		switch {
		case err != nil:
			return nil, unreadable(path, err)
		case !info.IsDir():
			folders = append(folders, filepath.Dir(path))
		default:
			err := walk(path, recursive, func(folder string) { folders = append(folders, folder) }, func(string) {})
			if err != nil {
				return nil, err
			}
		}
	}
	slices.Sort(folders)
	return slices.Compact(folders), nil
}

// expand gives the files that a path leads to, and whether it is a folder that they were found in.
func expand(path string, recursive bool) (files []string, inFolder bool, err error) {
	if path == Stdin {
		return []string{Stdin}, false, nil
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, false, unreadable(path, err)
	}
	if !info.IsDir() {
		return []string{filepath.Clean(path)}, false, nil
	}
	if err := walk(path, recursive, func(string) {}, func(file string) { files = append(files, file) }); err != nil {
		return nil, true, err
	}
	if len(files) == 0 {
		hint := "; -R reads the folders below it too"
		if recursive {
			hint = ""
		}
		return nil, true, fmt.Errorf("%s: no .yaml, .yml or .json file in this folder%s", path, hint)
	}
	return files, true, nil
}

// walk visits a folder and the manifests in it, sorted by name, and with recursive the folders below. A link to a file
// is the file, also when it leads nowhere; a link to a folder is not followed, so that there are no circles.
func walk(folder string, recursive bool, onFolder, onFile func(path string)) error {
	onFolder(filepath.Clean(folder))
	entries, err := os.ReadDir(folder)
	if err != nil {
		return unreadable(folder, err)
	}
	for _, entry := range entries {
		path := filepath.Join(folder, entry.Name())
		switch {
		case strings.HasPrefix(entry.Name(), "."):
		case entry.IsDir():
			if recursive {
				if err := walk(path, recursive, onFolder, onFile); err != nil {
					return err
				}
			}
		case slices.Contains(extensions, filepath.Ext(path)):
			// What cannot be looked at is said when it is read.
			if info, err := os.Stat(path); err != nil || !info.IsDir() {
				onFile(path)
			}
		}
	}
	return nil
}

func load(file string, stdin io.Reader) (name string, text []byte, err error) {
	if file == Stdin {
		name = StdinName
		text, err = readBounded(stdin)
	} else {
		name = file
		var opened *os.File
		if opened, err = os.Open(file); err == nil {
			defer func() { _ = opened.Close() }()
			text, err = readBounded(opened)
		}
	}
	return name, text, err
}

func readBounded(r io.Reader) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(r, MaxFileBytes+1))
	if err == nil && len(text) > MaxFileBytes {
		return nil, fmt.Errorf("larger than %d MiB; split it", MaxFileBytes>>20)
	}
	return text, err
}

// whyNot says why a file of a folder cannot be read.
func whyNot(file string, err error) string {
	if target, notALink := os.Readlink(file); notALink == nil && errors.Is(err, fs.ErrNotExist) {
		return fmt.Sprintf("is a link to %s, which is not there; mend the link, or remove it", target)
	}
	return "cannot be read: " + cause(err).Error()
}

// unreadable says what is wrong with a path without repeating it.
func unreadable(path string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: no such file or folder", path)
	}
	return fmt.Errorf("%s: %w", path, cause(err))
}

// cause leaves out the path, which messages name in front.
func cause(err error) error {
	if pathError, is := errors.AsType[*fs.PathError](err); is {
		return pathError.Err
	}
	return err
}
