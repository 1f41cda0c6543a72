package translate

import (
	"net/http"
	"net/url"
	"slices"

	"k8s.io/apimachinery/pkg/util/validation/field"

	v1 "github.com/penstock-dev/penstock/api/v1"
	"github.com/penstock-dev/penstock/internal/policy"
)

const maxDetailBytes = 1024

// responseHeaders are all there are, in the order in which they are compiled.
var responseHeaders = []v1.ResponseHeader{v1.ResponseHeaderDraft, v1.ResponseHeaderLegacy, v1.ResponseHeaderRetryAfter}

// response compiles how HTTP doors answer. It is nil when that is the default, so that policies are alike that mean the
// same.
func response(r *v1.Response, path *field.Path) (*policy.Response, field.ErrorList) {
	if r == nil {
		return nil, nil
	}
	var errs field.ErrorList
	compiled := &policy.Response{}
	switch {
	case r.Status == 0 || r.Status == http.StatusTooManyRequests:
	case r.Status < 400 || r.Status > 599:
		errs = append(errs, field.Invalid(path.Child("status"), r.Status, "must be from 400 to 599"))
	default:
		compiled.Status = int(r.Status)
	}
	headers, more := headers(r.Headers, path.Child("headers"))
	errs = append(errs, more...)
	compiled.Headers = headers
	if r.Problem != nil {
		errs = append(errs, problem(r.Problem, compiled, path.Child("problem"))...)
	}
	if compiled.Status == 0 && compiled.Headers == nil && compiled.Type+compiled.Title+compiled.Detail == "" {
		return nil, errs
	}
	return compiled, errs
}

// headers gives nil for the default.
func headers(list *[]v1.ResponseHeader, path *field.Path) ([]string, field.ErrorList) {
	if list == nil {
		return nil, nil
	}
	var errs field.ErrorList
	for i, h := range *list {
		if !slices.Contains(responseHeaders, h) {
			errs = append(errs, field.NotSupported(path.Index(i), h, responseHeaders))
		}
		if slices.Contains((*list)[:i], h) {
			errs = append(errs, field.Duplicate(path.Index(i), h))
		}
	}
	compiled := []string{}
	for _, h := range responseHeaders {
		if slices.Contains(*list, h) {
			compiled = append(compiled, string(h))
		}
	}
	if slices.Equal(compiled, policy.DefaultHeaders) {
		return nil, errs
	}
	return compiled, errs
}

func problem(p *v1.Problem, compiled *policy.Response, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, member := range []struct {
		name string
		text string
		most int
	}{{"type", p.Type, maxTextBytes}, {"title", p.Title, maxTextBytes}, {"detail", p.Detail, maxDetailBytes}} {
		if len(member.text) > member.most {
			errs = append(errs, field.TooLong(path.Child(member.name), field.OmitValueType{}, member.most))
		}
	}
	if _, err := url.Parse(p.Type); err != nil {
		errs = append(errs, field.Invalid(path.Child("type"), p.Type, "want a URI reference, such as https://shop.example/problems/too-many-requests"))
	}
	compiled.Type, compiled.Title, compiled.Detail = p.Type, p.Title, p.Detail
	return errs
}
