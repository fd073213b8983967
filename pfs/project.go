package pfs

import (
	"context"
	"fmt"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/minipachd/minipachd/auth"
	authpb "github.com/minipachd/minipachd/proto/auth_v2"
	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	"github.com/minipachd/minipachd/store"
)

// project returns the record of a project or *ProjectNotFoundError.
func (tx *Txn) project(name string) (*pfspb.ProjectInfo, error) {
	info, ok, err := tx.s.projects.Get(tx.Txn, name)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, &ProjectNotFoundError{Project: name}
	}
	return info, nil
}

// putProject stores a new project.
func (tx *Txn) putProject(name, description string) error {
	return tx.s.projects.Put(tx.Txn, name, &pfspb.ProjectInfo{
		Project:     &pfspb.Project{Name: name},
		Description: description,
		CreatedAt:   stamp(tx.Now()),
		CreatedBy:   tx.author,
	})
}

// putDefaultProject makes the project default anew: one in which everybody may
// create repos.
func (tx *Txn) putDefaultProject() error {
	if err := tx.s.auth.Unbind(tx.Txn, auth.Project(DefaultProject)); err != nil {
		return err
	}
	if err := tx.openDefaultProject(); err != nil {
		return err
	}
	return tx.putProject(DefaultProject, "")
}

// openDefaultProject lets everybody create repos in the project default.
func (tx *Txn) openDefaultProject() error {
	return tx.s.auth.Bind(tx.Context(), tx.Txn, auth.Project(DefaultProject), auth.AllClusterUsers, auth.RoleProjectWriter)
}

// CreateProject makes a project; with update it changes the description of an
// existing one instead.
func (tx *Txn) CreateProject(name, description string, update bool) error {
	if err := checkProjectName(name); err != nil {
		return err
	}
	info, ok, err := tx.s.projects.Get(tx.Txn, name)
	switch {
	case err != nil:
		return err
	case update && !ok:
		return &ProjectNotFoundError{Project: name}
	case update && info.Description == description:
		return nil
	case update:
		info.Description = description
		return tx.s.projects.Put(tx.Txn, name, info)
	case ok:
		return &ProjectExistsError{Project: name}
	default:
		return tx.putProject(name, description)
	}
}

// InspectProject describes a project or returns *ProjectNotFoundError.
func (tx *Txn) InspectProject(name string) (*pfspb.ProjectInfo, error) { return tx.project(name) }

// deleteProject removes a project without repos, its pipeline defaults and its role
// bindings.
func (tx *Txn) deleteProject(name string) error {
	if _, err := tx.project(name); err != nil {
		return err
	}
	left := &ProjectNotEmptyError{Project: name}
	for kv, err := range tx.Scan(repoPrefix+name+"/", store.ScanOptions{KeysOnly: true, Check: true, Limit: maxLinesOfRepos}) {
		if err != nil {
			return err
		}
		left.Repos = append(left.Repos, parseRepoKey(strings.TrimPrefix(kv.Key, repoPrefix)))
	}
	if len(left.Repos) > 0 {
		return left
	}
	tx.s.projects.Delete(tx.Txn, name)
	tx.s.defaults.Delete(tx.Txn, name)
	return tx.s.auth.Unbind(tx.Txn, auth.Project(name))
}

// maxLinesOfRepos bounds the text of ProjectNotEmptyError.
const maxLinesOfRepos = 1000

// CreateProject implements pfs_v2.API. Whoever makes a project owns it.
func (s *Service) CreateProject(ctx context.Context, req *pfspb.CreateProjectRequest) (*emptypb.Empty, error) {
	if req.GetProject() == nil {
		return nil, invalidRequest("a project must be given")
	}
	name := req.GetProject().GetName()
	return done(s.Update(ctx, func(tx *Txn) error {
		if req.GetUpdate() {
			if _, err := tx.project(name); err != nil {
				return err
			}
			if err := tx.permittedProject(name, authpb.Permission_PROJECT_SET_DEFAULTS); err != nil {
				return err
			}
			return tx.CreateProject(name, req.GetDescription(), true)
		}
		if err := s.auth.Check(ctx, tx.Txn, auth.Cluster(), authpb.Permission_PROJECT_CREATE); err != nil {
			return err
		}
		if err := tx.CreateProject(name, req.GetDescription(), false); err != nil {
			return err
		}
		return tx.bindCreator(auth.Project(name), auth.RoleProjectOwner)
	}))
}

// InspectProject implements pfs_v2.API.
func (s *Service) InspectProject(ctx context.Context, req *pfspb.InspectProjectRequest) (*pfspb.ProjectInfo, error) {
	if req.GetProject() == nil {
		return nil, invalidRequest("a project must be given")
	}
	var info *pfspb.ProjectInfo
	err := s.View(ctx, func(tx *Txn) error {
		var err error
		info, err = tx.InspectProject(req.GetProject().GetName())
		return err
	})
	if err != nil {
		return nil, err
	}
	info.AuthInfo = s.authInfo(ctx, auth.Project(info.Project.Name))
	return info, nil
}

// InspectProjectV2 implements pfs_v2.API.
func (s *Service) InspectProjectV2(ctx context.Context, req *pfspb.InspectProjectV2Request) (*pfspb.InspectProjectV2Response, error) {
	if req.GetProject() == nil {
		return nil, invalidRequest("a project must be given")
	}
	res := &pfspb.InspectProjectV2Response{DefaultsJson: "{}"}
	err := s.View(ctx, func(tx *Txn) error {
		var err error
		if res.Info, err = tx.InspectProject(req.GetProject().GetName()); err != nil {
			return err
		}
		defaults, ok, err := s.defaults.Get(tx.Txn, req.GetProject().GetName())
		if ok && defaults.GetProjectDefaultsJson() != "" {
			res.DefaultsJson = defaults.GetProjectDefaultsJson()
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	res.Info.AuthInfo = s.authInfo(ctx, auth.Project(res.Info.Project.Name))
	return res, nil
}

// ListProject implements pfs_v2.API; projects come ordered by name. Which ones there
// are everybody may know.
func (s *Service) ListProject(_ *pfspb.ListProjectRequest, stream grpc.ServerStreamingServer[pfspb.ProjectInfo]) error {
	for from := ""; ; {
		var page []*pfspb.ProjectInfo
		err := s.View(stream.Context(), func(tx *Txn) error {
			for item, err := range s.projects.Scan(tx.Txn, "", store.ScanOptions{From: from, Limit: listPage}) {
				if err != nil {
					return err
				}
				page = append(page, item.Value)
				from = item.Key + "\x00"
			}
			return nil
		})
		if err != nil {
			return err
		}
		for _, info := range page {
			info.AuthInfo = s.authInfo(stream.Context(), auth.Project(info.Project.Name))
			if err := stream.Send(info); err != nil {
				return err
			}
		}
		if len(page) < listPage {
			return nil
		}
	}
}

// DeleteProject implements pfs_v2.API. With force the repos go first, many of
// them in several transactions: after an error some may be gone.
func (s *Service) DeleteProject(ctx context.Context, req *pfspb.DeleteProjectRequest) (*emptypb.Empty, error) {
	if req.GetProject() == nil {
		return nil, invalidRequest("a project must be given")
	}
	name := req.GetProject().GetName()
	permit := func(tx *Txn) error {
		if _, err := tx.project(name); err != nil {
			return err
		}
		return tx.permittedProject(name, authpb.Permission_PROJECT_DELETE, authpb.Permission_PROJECT_MODIFY_BINDINGS)
	}
	if req.GetForce() {
		if err := s.View(ctx, permit); err != nil {
			return nil, err
		}
		if _, err := s.deleteRepos(ctx, []string{name}, true); err != nil {
			return nil, fmt.Errorf("delete project %s: %w", name, err)
		}
	}
	return done(s.Update(ctx, func(tx *Txn) error {
		if err := permit(tx); err != nil {
			return err
		}
		return tx.deleteProject(name)
	}))
}

// ReposSummary implements pfs_v2.API: the user repos of each project that the caller
// is shown, and the sum of their sizes in bytes.
func (s *Service) ReposSummary(ctx context.Context, req *pfspb.ReposSummaryRequest) (*pfspb.ReposSummaryResponse, error) {
	res := &pfspb.ReposSummaryResponse{}
	for _, picker := range req.GetProjects() {
		sum := &pfspb.ReposSummary{Project: &pfspb.Project{Name: picker.GetName()}}
		if sum.Project.Name == "" {
			return nil, invalidRequest("each picker must name a project")
		}
		if err := s.View(ctx, func(tx *Txn) error { _, err := tx.project(sum.Project.Name); return err }); err != nil {
			return nil, err
		}
		err := s.eachRepo(ctx, repoQuery{projects: []string{sum.Project.Name}, repoType: UserType}, func(info *pfspb.RepoInfo) error {
			sum.UserRepoCount++
			sum.SizeBytes += info.SizeBytesUpperBound
			return nil
		})
		if err != nil {
			return nil, err
		}
		res.Summaries = append(res.Summaries, proto.CloneOf(sum))
	}
	return res, nil
}
