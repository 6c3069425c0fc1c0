//! The HTTP routes, one file an endpoint.

mod dev_token;
mod dreams;
mod health;
mod media;
mod page;

use dreams::{add_images, create, delete, list, patch, retry, show};
use poem::{Route, get, post};

/// Everything that the API serves besides sockets. Paths of the seeds end in a slash; both forms are accepted.
pub(crate) fn routes() -> Route {
    let collection = || get(list::list).post(create::create);
    let dream = || get(show::show).patch(patch::patch).delete(delete::delete);
    let mut route = probes(Route::new())
        .at("/media/*key", get(media::serve))
        .at("/api/dev/token", get(dev_token::is_enabled).post(dev_token::issue));
    for slash in ["", "/"] {
        route = route
            .at(format!("/api/dreams{slash}"), collection())
            .at(format!("/api/dreams/:id{slash}"), dream())
            .at(format!("/api/dreams/:id/images{slash}"), post(add_images::add_images))
            .at(format!("/api/dreams/:id/images/retry{slash}"), post(retry::retry))
            .at(format!("/api/dreams/:id/images/:image_id{slash}"), poem::delete(delete::delete_image));
    }
    page::mount(route)
}

/// What every server answers to its operators.
pub(crate) fn probes(route: Route) -> Route {
    route.at("/healthz", get(health::alive)).at("/readyz", get(health::ready)).at("/metrics", get(health::metrics))
}
