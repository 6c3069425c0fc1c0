/**
 * The client of Oneiro: upload pictures, follow them live, be notified, see who is there.
 *
 * {@link DreamImagesSocket} follows one dream; {@link createDreamsApi} speaks to the REST API; {@link insertImages} and
 * {@link segmentsOf} put finished pictures into the text.
 */

export { ApiError } from "./api-error.js";
export { backoffCeilingMs, backoffDelayMs, parseRetryAfterS, type BackoffOptions } from "./backoff.js";
export { CLOSE_CODES, closeCode, CloseAction, type CloseCode } from "./close-codes.js";
export {
  ClosedBecause,
  ConnectionState,
  type CloseInfo,
  type ConnectionOptions,
  type ConnectionStatus,
  type IgnoredFrame,
  type SocketConstructor,
  type SocketLike,
} from "./connection-types.js";
export { DreamImagesSocket, isLive, isSettled, type DreamImagesOptions } from "./dream-images.js";
export { DreamImageWebSocketClient } from "./dream-image-client.js";
export {
  createDreamsApi,
  type Dream,
  type DreamChanges,
  type DreamPage,
  type DreamsApi,
  type DreamTags,
  type ImagesStatus,
  type NewDream,
  type NewImage,
} from "./dreams-api.js";
export type { HttpOptions, RequestOptions, UploadProgress } from "./http.js";
export { clampPosition, insertImages, segmentsOf, type Placed, type Segment } from "./insert-images.js";
export { NotificationsSocket, type NotificationsOptions } from "./notifications.js";
export { PresenceSocket, type PresenceOptions } from "./presence.js";
export type { TokenProvider, TokenRequest, TokenSource } from "./token.js";
export { isImageUrl } from "./urls.js";
export {
  IMAGE_STATUSES,
  parseDreamFrame,
  type ConnectionEstablishedFrame,
  type DreamClientFrame,
  type DreamImage,
  type DreamServerFrame,
  type ImageError,
  type ImageProgressFrame,
  type ImageStatus,
  type ImageUpdateFrame,
  type ImageVariant,
} from "./wire/dream.js";
export type {
  AuthenticatedFrame,
  CustomEventFrame,
  HistoryFrame,
  HistoryPoint,
  ResumedFrame,
  ResumeFailedFrame,
  SubscriptionSuccessFrame,
  UnsubscribedFrame,
} from "./wire/extensions.js";
export {
  parseNotificationsFrame,
  type AlertFrame,
  type MaterialUpdateFrame,
  type NotificationFrame,
  type NotificationsClientFrame,
  type NotificationsEvent,
  type NotificationsServerFrame,
  type OrderUpdateFrame,
} from "./wire/notifications.js";
export {
  parsePresenceFrame,
  PRESENCE_STATUSES,
  type ChatFrame,
  type ConnectedFrame,
  type PresenceClientFrame,
  type PresenceFrame,
  type PresenceNotificationFrame,
  type PresenceServerFrame,
  type PresenceStatus,
  type TypingFrame,
  type UserStatusFrame,
} from "./wire/presence.js";
export { sameId, type ErrorFrame, type Id, type PongFrame, type Positioned } from "./wire/frame.js";
