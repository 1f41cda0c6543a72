package policystore

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-dev/penstock/internal/redisops"
	"github.com/penstock-dev/penstock/internal/redisops/library"
)

// member is a primary of a cluster, as a publication sees it.
type member struct {
	redisops.Node
	// told is what its library tells of itself.
	told string
	// former is the text of the library that it had, for putting it back; nil: it had none.
	former *string
}

// clustering is a publication on a cluster, where each document is in a slot of its own and each primary has its own library.
type clustering struct {
	*publishing
	client redis.UniversalClient
	// primaries are all of them, members those that answer.
	primaries []redisops.Node
	members   []*member
	have      state
	result    Result
	// missed says what is wrong with those that are missing in the result.
	missed []error
}

func (w *publishing) publishCluster(ctx context.Context, primaries []redisops.Node) (Result, error) {
	c := &clustering{publishing: w, client: w.servers.Client(), primaries: primaries}
	err := c.publish(ctx)
	return c.result, err
}

func (c *clustering) publish(ctx context.Context) error {
	have, err := readState(ctx, c.client, c.Mode, false)
	if err != nil {
		return err
	}
	if c.Mode == library.ModeFunctions { // For scripts, loadScripts sees who answers.
		if err := c.ask(ctx); err != nil {
			return err
		}
	}
	found, err := c.examine(have, func() ([]string, error) { return texts(ctx, c.members) })
	c.result.Previous = found.previous
	if err != nil {
		return err
	}
	c.have = found.have
	c.have.told = c.want.told // Each primary tells its own.
	var stale []*member
	for _, m := range c.members {
		if m.told != c.want.told {
			stale = append(stale, m)
		}
	}
	if len(stale) > 0 || len(differences(c.have, c.want, c.Mode)) > 0 {
		if err := c.change(ctx, stale, found.published); err != nil {
			return err
		}
	}
	return errors.Join(c.missed...)
}

// change writes what differs, and reads it back.
func (c *clustering) change(ctx context.Context, stale []*member, published []string) error {
	stale, err := c.prepare(ctx, stale)
	if err != nil {
		return err
	}
	c.result.Dropped = missing(published, c.Set)
	loaded, err := c.write(ctx, stale)
	if err != nil {
		return err
	}
	return c.readBack(ctx, loaded)
}

// ask finds out which primaries answer, and what their libraries tell. The error is the refusal of one that can be reached.
func (c *clustering) ask(ctx context.Context) error {
	all, failures := make([]*member, len(c.primaries)), make([]error, len(c.primaries))
	inParallel(c.primaries, func(i int) {
		all[i] = &member{Node: c.primaries[i]}
		all[i].told, failures[i] = library.Told(ctx, c.primaries[i].Client)
	})
	if refusal := firstRefusal(all, failures); refusal != nil {
		return refusal
	}
	c.members = c.without(all, failures)
	return nil
}

// without gives the members that have no failure. The others are missing in the result.
func (c *clustering) without(members []*member, failures []error) []*member {
	var rest []*member
	for i, m := range members {
		if failures[i] == nil {
			rest = append(rest, m)
			continue
		}
		c.result.addMissing(m.Address)
		c.missed = append(c.missed, fmt.Errorf("%s: %w", m.Address, failures[i]))
	}
	return rest
}

// texts gives the texts of the members' libraries.
func texts(ctx context.Context, members []*member) ([]string, error) {
	var all []string
	for _, m := range members {
		text, found, err := library.Loaded(ctx, m.Client)
		if err != nil {
			return nil, fmt.Errorf("read the library of %s: %w", m.Address, err)
		}
		if found {
			all = append(all, text)
		}
	}
	return all, nil
}

// prepare reads what the members would lose, and asks whether they take a library of that size. It gives those that do; the
// error is the refusal of one that can be reached.
func (c *clustering) prepare(ctx context.Context, stale []*member) ([]*member, error) {
	failures := make([]error, len(stale))
	inParallel(nodesOf(stale), func(i int) {
		failures[i] = checkRole(ctx, stale[i].Client, stale[i].Address)
		if failures[i] == nil {
			failures[i] = stale[i].keepFormer(ctx, c.have)
		}
		if failures[i] == nil {
			failures[i] = c.takesLibrary(ctx, stale[i].Node)
		}
	})
	if refusal := firstRefusal(stale, failures); refusal != nil {
		return nil, refusal
	}
	return c.without(stale, failures), nil
}

// keepFormer reads the text of the library that is loaded, unless it is the published one.
func (m *member) keepFormer(ctx context.Context, have state) error {
	if m.told != "" && have.library.text != nil {
		document, err := library.ParseDocument([]byte(*have.library.text))
		if err == nil && library.TextTells(document.Text) == m.told {
			m.former = &document.Text
			return nil
		}
	}
	text, found, err := library.Loaded(ctx, m.Client)
	if err != nil {
		return fmt.Errorf("read the library: %w", err)
	}
	if found {
		m.former = &text
	}
	return nil
}

// takesLibrary sends what is no library, but as long as the one to come: a server that is full, a replica, or one that
// takes no writes for another reason, refuses it for that before it looks at the text.
func (w *publishing) takesLibrary(ctx context.Context, node redisops.Node) error {
	err := node.Client.FunctionLoad(ctx, " "+w.text).Err()
	if err == nil || redisops.Classify(err) == redisops.Failed {
		return nil
	}
	return fmt.Errorf("ask whether it takes a library: %w", err)
}

// firstRefusal gives the first failure of a member that answered.
func firstRefusal(members []*member, failures []error) error {
	for i, failure := range failures {
		if failure != nil && !away(failure) {
			return fmt.Errorf("%s: %w", members[i].Address, failure)
		}
	}
	return nil
}

func nodesOf(members []*member) []redisops.Node {
	nodes := make([]redisops.Node, len(members))
	for i, m := range members {
		nodes[i] = m.Node
	}
	return nodes
}

// write writes the documents, loads the library where it is stale, and announces the set. It gives the members that were
// loaded. What was written is put back when one of them refuses.
func (c *clustering) write(ctx context.Context, stale []*member) ([]*member, error) {
	written, err := c.swapDocuments(ctx)
	if err != nil {
		return nil, errors.Join(err, c.undo(ctx, nil, nil, written))
	}
	if err := c.stillOwns(ctx); err != nil {
		return nil, err
	}
	failures := make([]error, len(stale))
	inParallel(nodesOf(stale), func(i int) { failures[i] = library.Load(ctx, stale[i].Client, c.text, true) })
	if refusal := firstRefusal(stale, failures); refusal != nil {
		return nil, errors.Join(refusal, c.undo(ctx, stale, failures, written))
	}
	loaded := c.without(stale, failures)
	c.result.Changed = true
	return loaded, c.announce(ctx, c.want.hash)
}

// undo puts back the libraries of these members and the documents of these keys. When that is certain, nothing was dropped.
func (c *clustering) undo(ctx context.Context, members []*member, failures []error, keys []string) error {
	ctx, done := undoing(ctx)
	defer done()
	err := errors.Join(c.restore(ctx, members, failures), c.putBack(ctx, keys))
	if err == nil {
		c.result.Dropped = nil
	}
	return err
}

// announce tells the set of that hash to one node, which tells all others; also for a repair: a set that penstockd could not
// read may be readable now. The client would choose the node, be it dead.
func (c *clustering) announce(ctx context.Context, hash string) error {
	nodes := nodesOf(c.members)
	if len(nodes) == 0 {
		nodes = c.primaries
	}
	var failures []error
	for _, node := range nodes {
		err := node.Client.Publish(ctx, Channel, hash).Err()
		if err == nil {
			return nil
		}
		failures = append(failures, fmt.Errorf("announce the set: %s: %w", node.Address, err))
	}
	return errors.Join(failures...)
}

// stillOwns fails when somebody has taken over since the owner was written: nothing but that key tells it, and a library
// that is replaced from then on would be theirs. What was deleted is claimed again.
func (c *clustering) stillOwns(ctx context.Context) error {
	owner, err := c.client.Get(ctx, OwnerKey).Result()
	if errors.Is(err, redis.Nil) {
		err = swapDocument(ctx, c.client, OwnerKey, document{}, c.want.owner)
		owner = c.Owner
	}
	if err != nil {
		return fmt.Errorf("read %s again: %w", OwnerKey, err)
	}
	if owner != c.Owner {
		return &OwnedError{Owner: owner}
	}
	return nil
}

// restore puts back the libraries of the members that took the new one, or may have taken it.
func (c *clustering) restore(ctx context.Context, members []*member, failures []error) error {
	restoring := make([]error, len(members))
	inParallel(nodesOf(members), func(i int) {
		if failures[i] == nil || redisops.Classify(failures[i]) == redisops.UnknownOutcome {
			restoring[i] = members[i].restore(ctx, c.want.told)
		}
	})
	if err := errors.Join(restoring...); err != nil {
		return fmt.Errorf("and put the former library back: %w", err)
	}
	return nil
}

// restore puts back the library that the member had, unless it runs another one than the new one, which tells this: somebody
// has published since.
func (m *member) restore(ctx context.Context, told string) error {
	now, err := library.Told(ctx, m.Client)
	if err != nil || now != told {
		return err
	}
	if m.former == nil {
		return m.Client.FunctionDelete(ctx, library.Name).Err()
	}
	return library.Load(ctx, m.Client, *m.former, true)
}

// swapDocuments writes the documents that differ, each only over what it was, and gives the keys of those that were
// written, or may have been. A document that is another one by now is a redis.TxFailedErr.
func (c *clustering) swapDocuments(ctx context.Context) ([]string, error) {
	var written []string
	goals := c.want.entries(c.Mode)
	for i, e := range c.have.entries(c.Mode) {
		goal := *goals[i].document
		if e.fits(goal) {
			continue
		}
		err := swapDocument(ctx, c.client, e.key, *e.document, goal)
		if err == nil || redisops.Classify(err) == redisops.UnknownOutcome {
			written = append(written, e.key)
		}
		if err != nil {
			return written, fmt.Errorf("write %s: %w", e.key, err)
		}
	}
	return written, nil
}

func swapDocument(ctx context.Context, client redis.UniversalClient, key string, from, to document) error {
	return client.Watch(ctx, func(tx *redis.Tx) error {
		text, err := tx.Get(ctx, key).Result()
		now := document{text: &text, expires: from.expires}
		if class := redisops.Classify(err); errors.Is(err, redis.Nil) || class == redisops.WrongType {
			now.text = nil
		} else if err != nil {
			return err
		}
		if !equal(now.text, from.text) {
			return redis.TxFailedErr
		}
		commands, err := tx.TxPipelined(ctx, func(pipe redis.Pipeliner) error {
			setDocument(ctx, pipe, key, from, to)
			return nil
		})
		if err != nil {
			return firstError(commands, err)
		}
		return nil
	}, key)
}

// putBack makes the documents of these keys what they were, but for the owner: who has claimed a Redis may go on trying.
func (c *clustering) putBack(ctx context.Context, keys []string) error {
	var failed []error
	former := c.have.entries(c.Mode)
	for i, e := range c.want.entries(c.Mode) {
		if e.key != OwnerKey && slices.Contains(keys, e.key) {
			failed = append(failed, swapDocument(ctx, c.client, e.key, *e.document, *former[i].document))
		}
	}
	if slices.Contains(keys, PoliciesKey) && c.have.hash != "" {
		failed = append(failed, c.announce(ctx, c.have.hash)) // For whoever has read the policies meanwhile.
	}
	if err := errors.Join(failed...); err != nil {
		return fmt.Errorf("and put the former documents back: %w", err)
	}
	return nil
}

// readBack fails unless the documents and these members hold what was published.
func (c *clustering) readBack(ctx context.Context, loaded []*member) error {
	got, err := readState(ctx, c.client, c.Mode, false)
	if err != nil {
		return fmt.Errorf("read back: %w", err)
	}
	got.told = c.want.told
	differ := differences(got, c.want, c.Mode)
	failures := make([]error, len(loaded))
	inParallel(nodesOf(loaded), func(i int) { loaded[i].told, failures[i] = library.Told(ctx, loaded[i].Client) })
	for i, m := range loaded {
		if failures[i] != nil {
			return fmt.Errorf("read back from %s: %w", m.Address, failures[i])
		}
		if m.told != c.want.told {
			differ = append(differ, "the function library of "+m.Address)
		}
	}
	if len(differ) > 0 {
		return fmt.Errorf("%w: %v differ", ErrReadBack, differ)
	}
	return nil
}
