{% set columns = [
    'reviewerID', 'user_id', 'asin', 'parent_asin', 'overall', 'rating', 'unixReviewTime', 'timestamp', 'summary', 'title',
    'reviewText', 'text', 'verified', 'verified_purchase'
] %}
with named as (
    {{ landed_fields('events', 'amazon-reviews', columns, names=[
        'reviewer_id', 'user_id_2023', 'asin', 'parent_asin', 'overall', 'rating', 'unix_review_time', 'at_2023', 'summary',
        'title', 'review_text', 'text_2023', 'verified', 'verified_purchase'
    ]) }}
),

-- The columns of 2018 and of 2023 under one name each.
merged as (
    select
        arrival_hour,
        source,
        file,
        row_number,
        raw,
        read_error,
        coalesce(reviewer_id, user_id_2023) as user_id,
        asin,
        coalesce(parent_asin, asin) as item_id,
        coalesce(overall, rating) as stars,
        {{ utc_time('coalesce(unix_review_time, at_2023)') }} as event_ts,
        concat_ws(' ', coalesce(summary, title), coalesce(review_text, text_2023)) as review,
        lower(coalesce(verified, verified_purchase)) as verified
    from named
)

select
    arrival_hour,
    source,
    file,
    row_number,
    -- A review is one event however its text was edited since.
    'amazon-reviews:' || md5(cast(json_array(user_id, item_id, asin, event_ts) as varchar)) as event_key,
    user_id,
    item_id,
    'review' as event_type,
    event_ts,
    {{ number('stars') }} as value,
    {{ tidied('review') }} as text,
    cast(null as varchar) as session_id,
    case when verified is not null then cast(json_object('verified', verified) as varchar) end as attributes,
    false as deleted,
    false as is_bare_withdrawal,
    raw,
    case
        when read_error is not null then read_error
        when stars is not null and {{ number('stars') }} is null then 'invalid_value'
    end as reason
from merged
