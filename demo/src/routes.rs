//! What the shop answers.

use std::sync::Arc;

use axum::extract::{FromRequestParts, MatchedPath, Path, Query, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::auth::{Auth, Claims};
use crate::config::DemoConfig;
use crate::database::Database;
use crate::faults::Dice;
use crate::truth::Truth;

/// What all routes share.
pub(crate) struct Shop {
    pub(crate) config: DemoConfig,
    pub(crate) database: Database,
    pub(crate) auth: Auth,
    pub(crate) truth: Truth,
    pub(crate) dice: Dice,
}

type Shared = State<Arc<Shop>>;

/// All routes.
pub(crate) fn router(shop: Arc<Shop>) -> Router {
    Router::new()
        .route("/api/health", get(health))
        .route("/api/products", get(products))
        .route("/api/products/{id}", get(product))
        .route("/api/orders", get(orders).post(place_order))
        .route("/api/orders/{id}", get(order))
        .route("/api/cart", post(add_to_cart))
        .route("/api/profile", put(set_profile))
        .route("/api/payment/methods", get(payment_methods))
        .route("/api/payment/stripe/create-intent", post(card_payment))
        .route("/api/payment/apple-pay/authorize", post(card_payment))
        .route("/api/payment/open-banking/generate-qr", post(generate_qr))
        .route("/api/employees", get(employees))
        .route("/api/timeclock/clockin", post(clock_in))
        .route("/api/websocket/health", get(websocket_health))
        .route("/api/auth/login", post(login))
        .route("/api/auth/logout", post(logout))
        .route("/api/auth/refresh", post(refresh))
        .fallback(not_found)
        .layer(axum::middleware::from_fn_with_state(shop.clone(), witness))
        .route("/truth", get(truth))
        .with_state(shop)
}

/// Delays where asked, and counts every answer.
async fn witness(State(shop): Shared, path: Option<MatchedPath>, request: Request, next: Next) -> Response {
    let route = path.map_or_else(|| "unknown".to_owned(), |path| path.as_str().to_owned());
    let route = format!("{} {route}", request.method());
    if let Some(latency) = shop.config.latency {
        tokio::time::sleep(shop.dice.delay(latency)).await;
    }
    let response = next.run(request).await;
    shop.truth.count(&route, response.status().as_u16());
    response
}

async fn truth(State(shop): Shared) -> Json<Value> {
    Json(shop.truth.to_json())
}

/// What went wrong, as the shop says it.
struct Failure(StatusCode, String);

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (self.0, Json(json!({ "error": self.1 }))).into_response()
    }
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
    }
}

type Answer = Result<Json<Value>, Failure>;
type Created = Result<(StatusCode, Json<Value>), Failure>;

/// The user of a request: that of its token, or nobody in particular. A token that is not valid is refused.
struct Customer(Option<Claims>);

impl Customer {
    fn number(&self) -> i64 {
        self.0.as_ref().map_or(-1, |claims| claims.sub.cast_signed())
    }

    fn claims(self) -> Result<Claims, Failure> {
        self.0.ok_or_else(|| Failure(StatusCode::UNAUTHORIZED, "a token is needed".to_owned()))
    }
}

impl FromRequestParts<Arc<Shop>> for Customer {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, shop: &Arc<Shop>) -> Result<Self, Failure> {
        let Some(value) = parts.headers.get(header::AUTHORIZATION) else { return Ok(Self(None)) };
        let token = value.to_str().ok().and_then(|text| text.strip_prefix("Bearer "));
        match token.and_then(|token| shop.auth.check(token)) {
            Some(claims) => Ok(Self(Some(claims))),
            None => Err(Failure(StatusCode::UNAUTHORIZED, "the token is not valid".to_owned())),
        }
    }
}

async fn health() -> Json<Value> {
    Json(json!({ "status": "ok" }))
}

async fn websocket_health() -> Json<Value> {
    Json(json!({ "status": "ok", "connections": 0 }))
}

async fn not_found() -> Failure {
    Failure(StatusCode::NOT_FOUND, "there is nothing here".to_owned())
}

#[derive(Deserialize)]
struct Page {
    page: Option<u64>,
}

async fn products(State(shop): Shared, Query(page): Query<Page>) -> Answer {
    Ok(Json(shop.database.products(page.page.unwrap_or(1))?))
}

async fn product(State(shop): Shared, Path(id): Path<i64>) -> Answer {
    let product = shop.database.product(id)?;
    product.map(Json).ok_or_else(|| Failure(StatusCode::NOT_FOUND, format!("there is no product {id}")))
}

async fn orders(State(shop): Shared, customer: Customer) -> Answer {
    Ok(Json(shop.database.orders(customer.number())?))
}

async fn order(State(shop): Shared, Path(id): Path<i64>) -> Answer {
    let order = shop.database.order(id)?;
    order.map(Json).ok_or_else(|| Failure(StatusCode::NOT_FOUND, format!("there is no order {id}")))
}

#[derive(Deserialize)]
struct NewOrder {
    #[serde(default)]
    note: String,
}

async fn place_order(State(shop): Shared, customer: Customer, Json(order): Json<NewOrder>) -> Created {
    Ok((StatusCode::CREATED, Json(shop.database.place_order(customer.number(), &order.note)?)))
}

#[derive(Deserialize)]
struct CartLine {
    product: Value,
    quantity: Option<i64>,
}

async fn add_to_cart(State(shop): Shared, customer: Customer, Json(line): Json<CartLine>) -> Created {
    let product = line.product.as_str().map_or_else(|| line.product.to_string(), str::to_owned);
    let line = shop.database.add_to_cart(customer.number(), &product, line.quantity.unwrap_or(1))?;
    Ok((StatusCode::CREATED, Json(line)))
}

#[derive(Deserialize)]
struct Profile {
    name: String,
}

async fn set_profile(State(shop): Shared, customer: Customer, Json(profile): Json<Profile>) -> Answer {
    Ok(Json(shop.database.set_profile(customer.number(), &profile.name)?))
}

async fn payment_methods() -> Json<Value> {
    Json(json!({ "items": ["stripe", "apple-pay", "open-banking"] }))
}

async fn card_payment(State(shop): Shared, customer: Customer, Json(payment): Json<Value>) -> Created {
    if shop.config.decline > 0.0 && shop.dice.unit() < shop.config.decline {
        return Err(Failure(StatusCode::PAYMENT_REQUIRED, "the card was declined".to_owned()));
    }
    let id = format!("pi_{:016x}", (shop.dice.unit() * 2_f64.powi(53)) as u64);
    Ok((
        StatusCode::CREATED,
        Json(
            json!({ "id": id, "user": customer.number(), "amount": payment["amount"], "status": "succeeded" }),
        ),
    ))
}

async fn generate_qr(customer: Customer, Json(payment): Json<Value>) -> Created {
    let text = format!("openbanking:{}:{}", customer.number(), payment["amount"]);
    Ok((StatusCode::CREATED, Json(json!({ "qr": text }))))
}

async fn employees(State(shop): Shared) -> Answer {
    Ok(Json(shop.database.employees()?))
}

#[derive(Deserialize)]
struct ClockIn {
    employee: i64,
}

async fn clock_in(State(shop): Shared, Json(entry): Json<ClockIn>) -> Created {
    Ok((StatusCode::CREATED, Json(shop.database.clock_in(entry.employee)?)))
}

#[derive(Deserialize)]
struct Credentials {
    email: String,
    password: String,
}

async fn login(
    State(shop): Shared,
    Json(credentials): Json<Credentials>,
) -> Result<impl IntoResponse, Failure> {
    let user = Auth::account(&credentials.email, &credentials.password)
        .ok_or_else(|| Failure(StatusCode::UNAUTHORIZED, "address or password is wrong".to_owned()))?;
    token_for(&shop, user)
}

async fn refresh(State(shop): Shared, customer: Customer) -> Result<impl IntoResponse, Failure> {
    let claims = customer.claims()?;
    shop.auth.end(&claims);
    token_for(&shop, claims.sub)
}

fn token_for(shop: &Shop, user: u64) -> Result<(HeaderMap, Json<Value>), Failure> {
    let (token, claims) = shop
        .auth
        .issue(user)
        .ok_or_else(|| Failure(StatusCode::INTERNAL_SERVER_ERROR, "no token could be made".to_owned()))?;
    let mut headers = HeaderMap::new();
    if let Ok(cookie) = format!("sid=s{}-{}; Path=/; HttpOnly", user, claims.jti).parse() {
        headers.insert(header::SET_COOKIE, cookie);
    }
    let body = json!({ "token": token, "expires_in": shop.config.token_ttl.as_secs(), "user": { "id": user, "email": format!("user{user}@shop.test") } });
    Ok((headers, Json(body)))
}

async fn logout(State(shop): Shared, customer: Customer) -> Result<StatusCode, Failure> {
    let claims = customer.claims()?;
    shop.auth.end(&claims);
    Ok(StatusCode::NO_CONTENT)
}
